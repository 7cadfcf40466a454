-- The tables that definition.yaml refers to, filled by the psql variables `images` and `seed`, and a view `expected`
-- written by hand: what the index must equal.
SELECT setseed(:seed);
CREATE TABLE "Model" (id int PRIMARY KEY, poi bool NOT NULL);
CREATE TABLE "ModelVersion" (id int PRIMARY KEY, "baseModel" text NOT NULL, "modelId" int NOT NULL REFERENCES "Model" ON DELETE CASCADE);
CREATE TABLE "Post" (id int PRIMARY KEY, "userId" int NOT NULL, "publishedAt" timestamptz, availability text NOT NULL);
CREATE TABLE "Image" (
  id int PRIMARY KEY, "nsfwLevel" int NOT NULL, flags int NOT NULL, type text NOT NULL, "userId" int NOT NULL, "blockedFor" text,
  "scannedAt" timestamptz, "createdAt" timestamptz NOT NULL, "postId" int REFERENCES "Post" ON DELETE SET NULL, width int
);
CREATE TABLE "TagsOnImage" (
  "imageId" int NOT NULL REFERENCES "Image" ON DELETE CASCADE, "tagId" int NOT NULL, attributes int NOT NULL DEFAULT 0,
  PRIMARY KEY ("imageId", "tagId")
);
CREATE TABLE "ImageResource" (
  "imageId" int NOT NULL, "modelVersionId" int NOT NULL, detected bool NOT NULL, PRIMARY KEY ("imageId", "modelVersionId")
);

INSERT INTO "Model" SELECT id, random() < 0.1 FROM generate_series(1, 40) id;
INSERT INTO "ModelVersion" SELECT id, 'base ' || (random() * 6)::int, 1 + (random() * 39)::int FROM generate_series(1, 60) id;
INSERT INTO "Post"
  SELECT id, 1 + (power(random(), 3) * 200)::int,
    CASE WHEN random() < 0.15 THEN NULL WHEN random() < 0.01 THEN now() + interval '1 day' ELSE now() - random() * interval '400 days' END,
    CASE WHEN random() < 0.95 THEN 'Public' ELSE 'Private' END
  FROM generate_series(1, :images / 4) id;
INSERT INTO "Image"
  SELECT id, (ARRAY[1, 1, 1, 1, 2, 4, 8, 16])[1 + (random() * 7)::int], (random() * 16383)::int, CASE WHEN random() < 0.93 THEN 'image' ELSE 'video' END,
    1 + (power(random(), 3) * 200)::int, CASE WHEN random() < 0.02 THEN 'tos' END,
    CASE WHEN random() > 0.03 THEN now() - random() * interval '400 days' END, now() - random() * interval '400 days',
    CASE WHEN random() > 0.05 THEN 1 + (random() * (:images / 4 - 1))::int END, CASE WHEN random() > 0.1 THEN 64 * (random() * 30)::int END
  FROM generate_series(0, :images - 1) id;
INSERT INTO "TagsOnImage"
  SELECT id, 1 + (power(random(), 4) * 300)::int, CASE WHEN random() < 0.03 THEN 1024 ELSE 0 END
  FROM "Image", LATERAL generate_series(1, id % 12) ON CONFLICT DO NOTHING;
INSERT INTO "ImageResource"
  SELECT id, 1 + (power(random(), 2) * 70)::int, random() < 0.8
  FROM "Image", LATERAL generate_series(1, id % 5) ON CONFLICT DO NOTHING;

CREATE VIEW expected AS
  SELECT i.id, i."nsfwLevel", i.type, i."userId", i."postId", i."blockedFor", (i.flags & 8192) <> 0 AS "hasMeta", i.width,
    p."publishedAt", p.availability, greatest(i."scannedAt", i."createdAt", p."publishedAt") AS "sortAt", p."publishedAt" IS NOT NULL AS "isPublished",
    (SELECT array_agg("tagId") FROM "TagsOnImage" t WHERE t."imageId" = i.id AND t.attributes & 1024 = 0) AS "tagIds",
    (SELECT array_agg("modelVersionId") FROM "ImageResource" r WHERE r."imageId" = i.id AND r.detected) AS "modelVersionIds",
    (SELECT array_agg(DISTINCT v."baseModel") FROM "ImageResource" r JOIN "ModelVersion" v ON v.id = r."modelVersionId"
      WHERE r."imageId" = i.id AND r.detected) AS "baseModels",
    (SELECT array_agg(DISTINCT m.poi) FROM "ImageResource" r JOIN "ModelVersion" v ON v.id = r."modelVersionId" JOIN "Model" m ON m.id = v."modelId"
      WHERE r."imageId" = i.id AND r.detected) AS "resourcePoi"
  FROM "Image" i LEFT JOIN "Post" p ON p.id = i."postId";
