"""Work on tasks of chains: from a task that a served source was given to a confirmed answer that is paid.

    found ──▶ checked ──▶ attempting ──▶ working ──▶ answering ──▶ answered ──▶ confirmed (and paid)
      │          │            │             │            │            │
      ├──────────┴─ declined  └─────────────┴── failed ──┘            │
      └──── expired, lost: from wherever it is ───────────────────────┘

`rounds` looks for what there is to do, `finding` writes down what chains say, `course` does the next step of one
fulfilment, each step with a module of its own: `checking`, `asking` (a node), `training`, `sending` (to the chain),
`paying`.
"""
