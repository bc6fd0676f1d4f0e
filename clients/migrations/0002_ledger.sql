-- The part of the ledger that must be quick and exact: holds and settlements, many at a time.
--
-- `ledger_hold` and `ledger_settle` take a JSON array of rows, so that a batch is one call, and both may be called again with the same
-- rows: a hold that exists is not made twice, a hold that has ended stays as it ended.
-- Accounts are locked in the order of their ids, before anything else; an allowance is guarded by the lock of its
-- client's account; stripes are locked last, in order. `ledger_settle` locks the accounts that are paid, too, and credits
-- their stripe 0; the hot path, which cannot wait for them, has the other stripes. Whoever calls it more than once in
-- a transaction locks all of these accounts first (`ledger.lock`).

-- The account of a client, or of the marketplace where `owner` is null; made where it is missing.
CREATE FUNCTION ledger_account(owner bigint, wanted text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    found bigint;
BEGIN
    LOOP
        IF owner IS NULL THEN
            SELECT id INTO found FROM clients_account WHERE client_id IS NULL AND kind = wanted;
        ELSE
            SELECT id INTO found FROM clients_account WHERE client_id = owner AND kind = wanted;
        END IF;
        IF found IS NOT NULL THEN
            RETURN found;
        END IF;
        INSERT INTO clients_account (client_id, kind, balance, held) VALUES (owner, wanted, 0, 0)
        ON CONFLICT DO NOTHING;
    END LOOP;
END $$;

-- Move what an account has in its stripes into its balance. The account's row must be locked.
CREATE FUNCTION ledger_gather(account bigint) RETURNS void LANGUAGE sql AS $$
    WITH gone AS (DELETE FROM clients_stripe WHERE account_id = account RETURNING balance)
    UPDATE clients_account SET balance = balance + (SELECT sum(balance) FROM gone)
    WHERE id = account AND EXISTS (SELECT 1 FROM gone);
$$;

-- An allowance with the counters of windows that are over set to zero.
CREATE FUNCTION allowance_at(a clients_allowance, moment timestamptz) RETURNS clients_allowance
LANGUAGE plpgsql STABLE AS $$
DECLARE
    today date := (moment AT TIME ZONE 'UTC')::date;
    this_minute timestamptz := date_trunc('minute', moment);
BEGIN
    IF a.minute IS DISTINCT FROM this_minute THEN
        a.minute := this_minute;
        a.minute_requests := 0;
        a.minute_tokens := 0;
    END IF;
    IF a.day IS DISTINCT FROM today THEN
        IF a.day IS NULL OR date_trunc('month', a.day) <> date_trunc('month', today) THEN
            a.month_used := 0;
        END IF;
        a.day := today;
        a.day_used := 0;
    END IF;
    RETURN a;
END $$;

-- Why an allowance does not admit a request; null if it does. `a` must be as of `moment`.
CREATE FUNCTION allowance_objection(
    a clients_allowance, amount numeric, wanted_tokens bigint, is_new boolean, moment timestamptz
) RETURNS json LANGUAGE plpgsql STABLE AS $$
DECLARE
    scope text := CASE WHEN a.api_key_id IS NULL THEN 'account' ELSE 'api_key' END;
    minute_left numeric := 60 - extract(second FROM moment);
BEGIN
    IF is_new AND a.minute_requests + 1 > a.requests_per_minute THEN
        RETURN json_build_object('scope', scope, 'limit', 'requests_per_minute', 'allowed', a.requests_per_minute,
            'used', a.minute_requests, 'needed', 1, 'retry_after', minute_left);
    END IF;
    IF a.minute_tokens + wanted_tokens > a.tokens_per_minute THEN
        RETURN json_build_object('scope', scope, 'limit', 'tokens_per_minute', 'allowed', a.tokens_per_minute,
            'used', a.minute_tokens, 'needed', wanted_tokens,
            'retry_after', CASE WHEN wanted_tokens <= a.tokens_per_minute THEN minute_left END);
    END IF;
    IF is_new AND a.running + 1 > a.concurrency THEN
        RETURN json_build_object('scope', scope, 'limit', 'concurrency', 'allowed', a.concurrency,
            'used', a.running, 'needed', 1, 'retry_after', 1);
    END IF;
    IF amount > 0 AND a.day_used + amount > a.budget_day THEN
        RETURN json_build_object('scope', scope, 'limit', 'budget_day', 'allowed', a.budget_day::text,
            'used', a.day_used::text, 'needed', amount::text,
            'retry_after', extract(epoch FROM ((a.day + 1)::timestamp AT TIME ZONE 'UTC') - moment));
    END IF;
    IF amount > 0 AND a.month_used + amount > a.budget_month THEN
        RETURN json_build_object('scope', scope, 'limit', 'budget_month', 'allowed', a.budget_month::text,
            'used', a.month_used::text, 'needed', amount::text,
            'retry_after', extract(epoch FROM
                ((date_trunc('month', a.day) + interval '1 month')::timestamp AT TIME ZONE 'UTC') - moment));
    END IF;
    IF amount > 0 AND a.total_used + amount > a.budget_total THEN
        RETURN json_build_object('scope', scope, 'limit', 'budget_total', 'allowed', a.budget_total::text,
            'used', a.total_used::text, 'needed', amount::text);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION allowance_take(
    a clients_allowance, amount numeric, wanted_tokens bigint, is_new boolean
) RETURNS clients_allowance LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF is_new THEN
        a.minute_requests := a.minute_requests + 1;
        a.running := a.running + 1;
    END IF;
    a.minute_tokens := a.minute_tokens + wanted_tokens;
    a.day_used := a.day_used + amount;
    a.month_used := a.month_used + amount;
    a.total_used := a.total_used + amount;
    RETURN a;
END $$;

CREATE FUNCTION allowance_write(a clients_allowance) RETURNS void LANGUAGE sql AS $$
    UPDATE clients_allowance SET
        minute = a.minute, minute_requests = a.minute_requests, minute_tokens = a.minute_tokens, running = a.running,
        day = a.day, day_used = a.day_used, month_used = a.month_used, total_used = a.total_used
    WHERE id = a.id;
$$;

-- What the tighter of two allowances leaves in this minute: {"requests": [limit, left], "tokens": [...], "reset": s}.
CREATE FUNCTION allowance_left(own clients_allowance, keyed clients_allowance, moment timestamptz) RETURNS json
LANGUAGE sql STABLE AS $$
    SELECT json_build_object(
        'requests', (
            SELECT json_build_array(allowed, allowed - used)
            FROM (VALUES (own.requests_per_minute, own.minute_requests),
                (keyed.requests_per_minute, keyed.minute_requests)) AS each (allowed, used)
            WHERE allowed IS NOT NULL ORDER BY allowed - used LIMIT 1),
        'tokens', (
            SELECT json_build_array(allowed, allowed - used)
            FROM (VALUES (own.tokens_per_minute, own.minute_tokens),
                (keyed.tokens_per_minute, keyed.minute_tokens)) AS each (allowed, used)
            WHERE allowed IS NOT NULL ORDER BY allowed - used LIMIT 1),
        'reset', 60 - extract(second FROM moment))
$$;

-- How much of what a hold no longer reserves was counted in the day or month (`unit`) that an allowance counts now.
CREATE FUNCTION hold_back(
    unused numeric, created_at timestamptz, grown_at timestamptz, grown numeric, unit text, counted date
) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE date_trunc(unit, counted::timestamp)
        WHEN date_trunc(unit, created_at AT TIME ZONE 'UTC') THEN unused
        WHEN date_trunc(unit, grown_at AT TIME ZONE 'UTC') THEN least(unused, grown)
        ELSE 0 END
$$;

-- Reserve money, and a place within the limits of the account and of the API key, for what is about to begin.
--
-- rows: [{"reference", "client_id", "account" (its kind, default "spendable"), "api_key_id", "amount", "tokens",
-- "grows" (there must be one)}]. What has no "tokens" is not a request: only budgets bind it.
-- A hold that is open grows to `amount` if it is smaller.
-- Returns the rows that were refused, with a code and the numbers, and those that a limit applies to (code '').
CREATE FUNCTION ledger_hold(rows json) RETURNS TABLE (reference text, code text, details json)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz;
    today date;
    wanted record;
    account clients_account;
    own clients_allowance;
    keyed clients_allowance;
    nothing clients_allowance;
    taken numeric := 0;
    free numeric := 0;
    more numeric;
    more_tokens bigint;
    is_new boolean;
    is_request boolean;
    why json;
    made text[] := '{}';
    made_for bigint[] := '{}';
    made_by bigint[] := '{}';
    made_amount numeric[] := '{}';
    made_tokens bigint[] := '{}';
    made_at timestamptz[] := '{}';
BEGIN
    PERFORM ledger_account(missing.client_id, missing.kind) FROM (
        SELECT DISTINCT said.client_id, coalesce(said.account, 'spendable') AS kind
        FROM json_to_recordset(rows) AS said (client_id bigint, account text)
        WHERE NOT EXISTS (
            SELECT 1 FROM clients_account a
            WHERE a.client_id = said.client_id AND a.kind = coalesce(said.account, 'spendable'))
        ORDER BY 1, 2
    ) AS missing;
    FOR wanted IN
        SELECT said.reference, said.api_key_id, coalesce(said.amount, 0) AS amount, said.tokens,
            coalesce(said.grows, false) AS grows, a.id AS account_id, a.client_id
        FROM json_to_recordset(rows) AS said
            (reference text, client_id bigint, account text, api_key_id bigint, amount numeric, tokens bigint,
                grows boolean)
        JOIN clients_account a ON a.client_id = said.client_id AND a.kind = coalesce(said.account, 'spendable')
        ORDER BY a.id, said.api_key_id NULLS FIRST
    LOOP
        IF account.id IS DISTINCT FROM wanted.account_id THEN
            IF taken <> 0 THEN
                UPDATE clients_account SET held = held + taken WHERE id = account.id;
            END IF;
            IF own.id IS NOT NULL THEN PERFORM allowance_write(own); END IF;
            IF keyed.id IS NOT NULL THEN PERFORM allowance_write(keyed); END IF;
            SELECT * INTO account FROM clients_account WHERE id = wanted.account_id FOR NO KEY UPDATE;
            -- Read only now, under the lock: waiting for it may have taken long.
            moment := clock_timestamp();
            today := (moment AT TIME ZONE 'UTC')::date;
            taken := 0;
            free := account.balance - account.held;
            own := nothing;
            -- Limits are for what is spent; what was earned is its owner's to take.
            IF account.kind = 'spendable' THEN
                SELECT * INTO own FROM clients_allowance WHERE client_id = account.client_id AND api_key_id IS NULL;
            END IF;
            own := CASE WHEN own.id IS NULL THEN nothing ELSE allowance_at(own, moment) END;
            keyed := nothing;
        END IF;
        IF keyed.api_key_id IS DISTINCT FROM wanted.api_key_id THEN
            IF keyed.id IS NOT NULL THEN PERFORM allowance_write(keyed); END IF;
            keyed := nothing;
            IF wanted.api_key_id IS NOT NULL AND account.kind = 'spendable' THEN
                SELECT * INTO keyed FROM clients_allowance WHERE api_key_id = wanted.api_key_id;
                keyed := CASE WHEN keyed.id IS NULL THEN nothing ELSE allowance_at(keyed, moment) END;
            END IF;
        END IF;
        reference := wanted.reference;
        is_request := wanted.tokens IS NOT NULL;
        CONTINUE WHEN wanted.reference = ANY (made);
        SELECT false, greatest(wanted.amount - h.amount, 0), greatest(coalesce(wanted.tokens, 0) - coalesce(h.tokens, 0), 0)
        INTO is_new, more, more_tokens
        FROM clients_hold h WHERE h.reference = wanted.reference AND h.ended_at IS NULL;
        IF NOT FOUND THEN
            PERFORM 1 FROM clients_hold h WHERE h.reference = wanted.reference;
            IF FOUND OR wanted.grows THEN
                code := 'hold_ended';
                details := NULL;
                RETURN NEXT;
                CONTINUE;
            END IF;
            is_new := true;
            more := wanted.amount;
            more_tokens := coalesce(wanted.tokens, 0);
        END IF;
        IF NOT is_new AND more = 0 AND more_tokens = 0 THEN
            CONTINUE;
        END IF;
        why := NULL;
        IF keyed.id IS NOT NULL THEN
            why := allowance_objection(keyed, more, more_tokens, is_new AND is_request, moment);
        END IF;
        IF why IS NULL AND own.id IS NOT NULL THEN
            why := allowance_objection(own, more, more_tokens, is_new AND is_request, moment);
        END IF;
        IF why IS NOT NULL THEN
            code := 'limit_reached';
            details := why;
            RETURN NEXT;
            CONTINUE;
        END IF;
        IF more > free THEN
            PERFORM ledger_gather(account.id);
            SELECT balance - held - taken INTO free FROM clients_account WHERE id = account.id;
        END IF;
        IF more > free THEN
            code := 'insufficient_balance';
            details := json_build_object('available', free::text, 'needed', more::text);
            RETURN NEXT;
            CONTINUE;
        END IF;
        taken := taken + more;
        free := free - more;
        IF own.id IS NOT NULL THEN own := allowance_take(own, more, more_tokens, is_new AND is_request); END IF;
        IF keyed.id IS NOT NULL THEN keyed := allowance_take(keyed, more, more_tokens, is_new AND is_request); END IF;
        IF is_new THEN
            made := made || wanted.reference;
            made_for := made_for || account.id;
            made_by := made_by || wanted.api_key_id;
            made_amount := made_amount || wanted.amount;
            made_tokens := made_tokens || wanted.tokens;
            -- The moment that the limits were counted at: it says later in which windows.
            made_at := made_at || moment;
        ELSE
            UPDATE clients_hold h SET amount = h.amount + more, tokens = h.tokens + more_tokens,
                grown_day = more + hold_back(h.grown_day, h.grown_at, NULL, 0, 'day', today),
                grown_month = more + hold_back(h.grown_month, h.grown_at, NULL, 0, 'month', today),
                grown_at = moment
            WHERE h.reference = wanted.reference;
        END IF;
        IF own.id IS NOT NULL OR keyed.id IS NOT NULL THEN
            code := '';
            details := allowance_left(own, keyed, moment);
            RETURN NEXT;
        END IF;
    END LOOP;
    IF taken <> 0 THEN
        UPDATE clients_account SET held = held + taken WHERE id = account.id;
    END IF;
    IF own.id IS NOT NULL THEN PERFORM allowance_write(own); END IF;
    IF keyed.id IS NOT NULL THEN PERFORM allowance_write(keyed); END IF;
    INSERT INTO clients_hold (reference, account_id, api_key_id, amount, captured, tokens, created_at, outcome)
    SELECT ref, owner, by_key, reserved, 0, reserved_tokens, began, ''
    FROM unnest(made, made_for, made_by, made_amount, made_tokens, made_at)
        AS each (ref, owner, by_key, reserved, reserved_tokens, began);
END $$;

-- End holds: take what the work did cost, give it to whom it is due, and free the rest.
--
-- rows: [{"reference", "captured", "fee" (part of it), "payee_client" (null: the marketplace's), "payee_kind" (default
-- "earned"), "transfer" (its reference; default the hold's), "kind", "memo", "by_id", "tokens" that were used,
-- "final" (default true; false keeps the rest held), "stripe"}]. `captured` 0 releases.
-- Returns the references of the holds that this call changed; others had ended before, or never were.
CREATE FUNCTION ledger_settle(rows json) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := clock_timestamp();
    fees bigint := ledger_account(NULL, 'fees');
    payees bigint[];
    locked bigint[];
BEGIN
    payees := ARRAY(
        SELECT ledger_account(each.payee_client, each.payee_kind) FROM (
            SELECT DISTINCT r.payee_client, coalesce(r.payee_kind, 'earned') AS payee_kind
            FROM json_to_recordset(rows) AS r (captured numeric, payee_client bigint, payee_kind text)
            WHERE r.captured > 0 ORDER BY 1, 2
        ) AS each);
    IF cardinality(payees) > 0 THEN payees := payees || fees; END IF;
    -- Also those that are paid: who credits several by turns must not meet somebody who does so in another order.
    -- Arrays, since a join may read all holds there are where the planner knows nothing of them yet.
    SELECT array_agg(owner.id) INTO locked FROM (
        SELECT id FROM clients_account
        WHERE id = ANY (payees || ARRAY(
            SELECT h.account_id FROM clients_hold h
            WHERE h.reference = ANY (ARRAY(SELECT said.reference FROM json_to_recordset(rows) AS said (reference text)))))
        ORDER BY id FOR NO KEY UPDATE
    ) AS owner;
    RETURN QUERY
    WITH said AS MATERIALIZED (
        SELECT r.reference, coalesce(r.captured, 0) AS captured, coalesce(r.fee, 0) AS fee, r.payee_client,
            coalesce(r.payee_kind, 'earned') AS payee_kind, coalesce(r.transfer, r.reference) AS transfer, r.kind,
            coalesce(r.memo, '') AS memo, r.by_id, r.tokens, coalesce(r.final, true) AS final,
            coalesce(r.stripe, 0) AS stripe
        FROM json_to_recordset(rows) AS r (
            reference text, captured numeric, fee numeric, payee_client bigint, payee_kind text, transfer text,
            kind text, memo text, by_id bigint, tokens bigint, final boolean, stripe smallint)
    ), payee AS MATERIALIZED (
        SELECT each.payee_client, each.payee_kind, ledger_account(each.payee_client, each.payee_kind) AS id
        FROM (SELECT DISTINCT s.payee_client, s.payee_kind FROM said s WHERE s.captured > 0) AS each
    ), ended AS (
        UPDATE clients_hold h SET
            captured = h.captured + s.captured,
            ended_at = CASE WHEN s.final THEN moment END,
            outcome = CASE WHEN NOT s.final THEN '' WHEN h.captured + s.captured > 0 THEN 'settled' ELSE 'released' END
        FROM said s
        WHERE h.reference = s.reference AND h.reference = ANY (ARRAY(SELECT reference FROM said)) AND h.ended_at IS NULL
            -- A hold that was made only now has an account that is not locked here: it was not there to be ended.
            AND h.account_id = ANY (locked)
            AND (s.final OR NOT EXISTS (SELECT 1 FROM clients_transfer t WHERE t.reference = s.transfer))
        RETURNING h.reference, h.account_id, h.api_key_id, h.created_at, h.grown_at, h.grown_day, h.grown_month,
            h.tokens AS reserved_tokens, s.final,
            s.captured, s.fee, s.payee_client, s.payee_kind, s.transfer, s.kind, s.memo, s.by_id, s.stripe,
            CASE WHEN s.final THEN h.amount - h.captured + s.captured ELSE s.captured END AS freed,
            coalesce(s.tokens, h.tokens) AS used_tokens
    ), posted AS (
        INSERT INTO clients_transfer (reference, kind, source_id, destination_id, amount, fee, memo, by_id, at)
        SELECT e.transfer, e.kind, e.account_id, p.id, e.captured, e.fee, e.memo, e.by_id, moment
        FROM ended e
        JOIN payee p ON p.payee_kind = e.payee_kind AND p.payee_client IS NOT DISTINCT FROM e.payee_client
        WHERE e.captured > 0
    ), taken AS (
        UPDATE clients_account a SET balance = a.balance - t.captured, held = a.held - t.freed
        FROM (SELECT e.account_id, sum(e.captured) AS captured, sum(e.freed) AS freed FROM ended e GROUP BY 1) AS t
        WHERE a.id = t.account_id
    ), given AS (
        INSERT INTO clients_stripe (account_id, number, balance)
        SELECT due.id, due.stripe, sum(due.amount) FROM (
            SELECT p.id, e.stripe, e.captured - e.fee AS amount
            FROM ended e
            JOIN payee p ON p.payee_kind = e.payee_kind AND p.payee_client IS NOT DISTINCT FROM e.payee_client
            UNION ALL SELECT fees, e.stripe, e.fee FROM ended e WHERE e.captured > 0
        ) AS due
        WHERE due.amount > 0
        GROUP BY due.id, due.stripe ORDER BY due.id, due.stripe
        ON CONFLICT (account_id, number) DO UPDATE SET balance = clients_stripe.balance + excluded.balance
    ), counted AS (
        UPDATE clients_allowance a SET
            running = greatest(a.running - t.ended, 0),
            minute_tokens = greatest(a.minute_tokens - t.minute_tokens, 0),
            day_used = greatest(a.day_used - t.day, 0),
            month_used = greatest(a.month_used - t.month, 0),
            total_used = greatest(a.total_used - t.total, 0)
        FROM (
            SELECT l.id, count(*) FILTER (WHERE e.final AND e.reserved_tokens IS NOT NULL) AS ended,
                coalesce(sum(e.reserved_tokens - e.used_tokens)
                    FILTER (WHERE l.minute = date_trunc('minute', e.created_at)), 0) AS minute_tokens,
                sum(hold_back(e.freed - e.captured, e.created_at, e.grown_at, e.grown_day, 'day', l.day)) AS day,
                sum(hold_back(e.freed - e.captured, e.created_at, e.grown_at, e.grown_month, 'month', l.day)) AS month,
                sum(e.freed - e.captured) AS total
            FROM ended e
            JOIN clients_account a ON a.id = e.account_id AND a.kind = 'spendable'
            JOIN clients_allowance l
                ON l.client_id = a.client_id AND (l.api_key_id IS NULL OR l.api_key_id = e.api_key_id)
            GROUP BY l.id
        ) AS t
        WHERE a.id = t.id
    )
    SELECT e.reference::text FROM ended e;
END $$;

-- Holds of accounts without limits take a quicker way (`clients.ledger.HOLD`), which must know them.
CREATE FUNCTION ledger_note_limits() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    owner bigint := coalesce(NEW.client_id, OLD.client_id);
    spendable bigint := ledger_account(owner, 'spendable');
BEGIN
    -- Before it looks: a statement that waits for a row goes on with what it saw of other rows before it waited.
    PERFORM 1 FROM clients_account WHERE id = spendable FOR NO KEY UPDATE;
    UPDATE clients_account SET limited = EXISTS (SELECT 1 FROM clients_allowance l WHERE l.client_id = owner)
    WHERE id = spendable;
    RETURN NULL;
END $$;

CREATE TRIGGER limits AFTER INSERT OR DELETE ON clients_allowance
FOR EACH ROW EXECUTE FUNCTION ledger_note_limits();

CREATE FUNCTION ledger_is_final() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is only ever added to; a mistake is put right by a further entry', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER final BEFORE UPDATE OR DELETE ON clients_transfer FOR EACH ROW EXECUTE FUNCTION ledger_is_final();
CREATE TRIGGER final_all BEFORE TRUNCATE ON clients_transfer EXECUTE FUNCTION ledger_is_final();
CREATE TRIGGER final BEFORE UPDATE OR DELETE ON clients_auditentry FOR EACH ROW EXECUTE FUNCTION ledger_is_final();
CREATE TRIGGER final_all BEFORE TRUNCATE ON clients_auditentry EXECUTE FUNCTION ledger_is_final();
CREATE TRIGGER final BEFORE UPDATE OR DELETE ON clients_terms FOR EACH ROW EXECUTE FUNCTION ledger_is_final();
CREATE TRIGGER final_all BEFORE TRUNCATE ON clients_terms EXECUTE FUNCTION ledger_is_final();
