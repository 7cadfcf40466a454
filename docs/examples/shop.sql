-- The tables of docs/examples/shop.yaml.
CREATE SCHEMA warehouse;
CREATE TABLE category (id int PRIMARY KEY, name text NOT NULL, parent_id int REFERENCES category);
CREATE TABLE product (
  id bigint PRIMARY KEY,
  sku int NOT NULL UNIQUE,
  title text NOT NULL,
  category_id int REFERENCES category,
  price numeric(12, 2) NOT NULL,
  sale_price numeric(12, 2),
  rating double precision,
  condition varchar(20) NOT NULL DEFAULT 'new',
  active bool NOT NULL DEFAULT true,
  deleted bool NOT NULL DEFAULT false,
  listed_at timestamp,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE warehouse.stock (sku int PRIMARY KEY, quantity int NOT NULL, restocked_at timestamptz);
CREATE TABLE product_tag (
  product_id bigint NOT NULL REFERENCES product ON DELETE CASCADE,
  tag varchar(100) NOT NULL,
  approved bool NOT NULL DEFAULT true,
  PRIMARY KEY (product_id, tag)
);
CREATE TABLE product_price_tier (product_id bigint NOT NULL, price numeric(12, 2) NOT NULL, PRIMARY KEY (product_id, price));
