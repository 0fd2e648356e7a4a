-- What a daemon has in memory may come from other functions and policies than those installed here.
DO $$ BEGIN PERFORM vault._feed_all(); END $$;
