-- +goose Up
-- It takes arrays now; CREATE OR REPLACE would leave the old one beside the new.
DROP FUNCTION IF EXISTS vault.ship_reads(text, uuid, bigint, jsonb);
