-- One round of changes of every kind; `round` tells rounds apart. Prints the transaction's id.
BEGIN;
UPDATE "Image" SET "nsfwLevel" = 32, width = :round WHERE id % 97 = :round % 97;
UPDATE "Post" SET "publishedAt" = now() WHERE "publishedAt" IS NULL AND id % 7 = :round % 7;
UPDATE "Model" SET poi = NOT poi WHERE id % 5 = :round % 5;
DELETE FROM "TagsOnImage" WHERE "imageId" % 53 = :round % 53;
INSERT INTO "TagsOnImage" SELECT id, 900 + :round FROM "Image" WHERE id % 11 = :round % 11 ON CONFLICT DO NOTHING;
DELETE FROM "Image" WHERE id % 211 = :round % 211 AND id <> 0;
INSERT INTO "Post" VALUES (1000000 + :round, 7, now(), 'Public');
INSERT INTO "Image"
  SELECT 1000000 + 100 * :round + n, 1, 8192, 'image', 7, NULL, now(), now(), 1000000 + :round, 640 FROM generate_series(0, 49) n;
INSERT INTO "TagsOnImage" SELECT 1000000 + 100 * :round + n, 900 + :round FROM generate_series(0, 49) n;
INSERT INTO "ImageResource" SELECT 1000000 + 100 * :round + n, 1 + n % 60, true FROM generate_series(0, 49) n;
SELECT pg_current_xact_id();
COMMIT;
