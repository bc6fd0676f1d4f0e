"""Training, as a program of its own: `python -m finetune.trainer SPEC`. No Django, no network.

SPEC is a JSON file (`finetune.trainer.spec`). On standard output come events, a JSON object per line
(`finetune.trainer.events`); on standard error, whatever the libraries say. Whoever starts it may

    SIGTERM   make it write a checkpoint and stop (exit status 75)
    SIGKILL   end it at once, with all its memory

It ends with status 0 after `finished`, 1 after `failed`. Started again with the same SPEC and folder it goes on from
the newest checkpoint there.
"""
