-- What a daemon has in memory may come from other functions and policies than those installed here.
INSERT INTO vault.change_feed (tx, name) VALUES (pg_current_xact_id(), '') ON CONFLICT DO NOTHING;
