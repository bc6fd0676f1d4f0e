-- What every hold was, kept beside the holds by triggers for as long as the hammer runs, and whether limits were kept
-- at the moment of each change: these triggers run within the transaction that changes a hold, under its account's lock.
CREATE TABLE hammer_hold (
    reference text PRIMARY KEY, account_id bigint, client_id bigint, api_key_id bigint, created_at timestamptz,
    amount numeric, tokens bigint, captured numeric, is_open boolean, times_ended int DEFAULT 0
);
CREATE INDEX hammer_recent ON hammer_hold (account_id, created_at);
CREATE INDEX hammer_open ON hammer_hold (account_id) WHERE is_open;

CREATE FUNCTION hammer_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- A reference may be used once: a second hold of this name fails here.
        INSERT INTO hammer_hold SELECT NEW.reference, NEW.account_id, a.client_id, NEW.api_key_id, NEW.created_at,
            NEW.amount, NEW.tokens, 0, true FROM clients_account a WHERE a.id = NEW.account_id;
    ELSIF TG_OP = 'UPDATE' THEN
        UPDATE hammer_hold SET amount = NEW.amount, tokens = CASE
                -- All that is settled here used 40 tokens of each 100, and what is released used none.
                WHEN NEW.ended_at IS NULL THEN NEW.tokens WHEN NEW.captured > 0 THEN 40 ELSE 0 END,
            captured = NEW.captured, is_open = NEW.ended_at IS NULL,
            times_ended = times_ended + (NEW.ended_at IS NOT NULL AND OLD.ended_at IS NULL)::int
        WHERE reference = NEW.reference;
    ELSE
        UPDATE hammer_hold SET is_open = false, times_ended = times_ended + 1, (captured, tokens) = (
            SELECT OLD.captured + coalesce(sum(t.amount), 0), CASE WHEN count(*) > 0 THEN 40 ELSE 0 END
            FROM clients_transfer t WHERE t.reference = OLD.reference)
        WHERE reference = OLD.reference AND OLD.ended_at IS NULL;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION hammer_check() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    l record;
    u record;
BEGIN
    FOR l IN SELECT w.*, a.id AS account_id FROM clients_allowance w
        JOIN clients_account a ON a.client_id = w.client_id AND a.kind = 'spendable' AND a.id = NEW.account_id
        WHERE w.api_key_id IS NULL OR w.api_key_id = NEW.api_key_id
    LOOP
        SELECT count(*) FILTER (WHERE is_open) AS running,
            count(*) FILTER (WHERE created_at >= date_trunc('minute', NEW.created_at)) AS requests,
            coalesce(sum(tokens) FILTER (WHERE created_at >= date_trunc('minute', NEW.created_at)), 0) AS tokens,
            sum(CASE WHEN is_open THEN amount ELSE captured END) AS used
        INTO u FROM hammer_hold h
        WHERE h.account_id = l.account_id AND (l.api_key_id IS NULL OR h.api_key_id = l.api_key_id);
        IF u.running > l.concurrency OR u.requests > l.requests_per_minute OR u.tokens > l.tokens_per_minute
            OR u.used > l.budget_day OR u.used > l.budget_total THEN
            RAISE EXCEPTION 'limit exceeded: % against %', row_to_json(u), row_to_json(l);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;

CREATE TRIGGER hammer_a_note AFTER INSERT OR UPDATE OR DELETE ON clients_hold
FOR EACH ROW EXECUTE FUNCTION hammer_note();
CREATE TRIGGER hammer_b_check AFTER INSERT OR UPDATE OF amount ON clients_hold
FOR EACH ROW EXECUTE FUNCTION hammer_check();
