-- Run once by the image's entry point, as the superuser, when the volume is empty.
-- Two databases with one owner each: the webserver's login for Dagster's history cannot read the login table.
\set ON_ERROR_STOP on
\getenv loginetl_password LOGINETL_PASSWORD
\getenv dagster_password DAGSTER_PASSWORD

CREATE ROLE loginetl LOGIN PASSWORD :'loginetl_password';
CREATE DATABASE loginetl OWNER loginetl;
REVOKE CONNECT, TEMPORARY ON DATABASE loginetl FROM PUBLIC;

CREATE ROLE dagster LOGIN PASSWORD :'dagster_password';
CREATE DATABASE dagster OWNER dagster;
REVOKE CONNECT, TEMPORARY ON DATABASE dagster FROM PUBLIC;
