"""LanceDB, Qdrant, and PostgreSQL with pgvector: vectors, words and filters in one query.

All three take `CANDIDATES` by vectors and as many by words among the products that fit the filters, and order them by
the weighted score of `evaluation.vectors.hybrid`: Qdrant and PostgreSQL by themselves, LanceDB through a reranker.
"""

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa

from common_moon2.cli import UserError
from evaluation.models.bm25 import tokens
from evaluation.stores.records import CANDIDATES, TERMS, Asked, Engine, Records, Source, Sparse, terms_of
from evaluation.tables.details import Filter
from pictures_moon2 import address

SERVER = ("http://", "https://")
MEMORY = (":memory:", "memory://", "shared-memory://")
READ = 10_000  # rows of a table at a time


@contextmanager
def refusals(store: str, location: str, name: str, *others: type[Exception]) -> Iterator[None]:
    """Turn a store's own complaint about a name or a place into a sentence."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, *others) as error:
        raise UserError(f"{name!r} cannot be used in {store} at {address(location)}: {error}") from error


def refuse_place(location: str) -> None:
    """Refuse places where nothing would be kept."""
    if Path(location).is_file():
        raise UserError(f"--location {location} is a file: give a folder, or the address of a server.")
    if location.startswith(MEMORY):
        raise UserError(
            f"--location {location} is memory, which ends with this command: give a folder, or the address of a server."
        )


def _library(module: str, store: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"The store {store} needs a package: pip install 'moon2[{store}]'.") from error


def _check_state(there: bool, source: Source | None, update: bool, location: str, kind: str, name: str) -> None:
    """Refuse to fill what is there already, and to ask what is not."""
    if there and source is not None and not update:
        raise UserError(
            f"{address(location)} has a {kind} {name!r} already: bring it up to date with --update, give another "
            "--name, or delete it."
        )
    if not there and source is None:
        raise UserError(f"{address(location)} has no {kind} {name!r}: make it with `python -m evaluation store`.")


def refuse_misfit(location: str, name: str, there: dict, wanted: dict) -> None:
    """Refuse to bring a table up to date from vectors with other columns, by name and type."""
    differing = [one for one in there | wanted if one not in there or there[one] != wanted.get(one, ...)]
    if differing:
        raise UserError(
            f"{name!r} at {address(location)} has other columns than the vectors ({', '.join(differing)}): embed with "
            "the same --keep and model, or load another --name."
        )


class LanceStore(Engine):
    """A table of an embedded LanceDB; see `Store`."""

    def __init__(self, location: str, name: str, source: Source | None = None, update: bool = False):
        lancedb = _library("lancedb", "lancedb")
        refuse_place(location)
        if location.startswith(SERVER):
            raise UserError(f"--location {address(location)} is a web server; LanceDB is kept in a folder.")
        if "://" not in location and not Path(location).is_dir():  # which would be made
            _check_state(False, source, update, location, "table", name)
        with refusals("LanceDB", location, name):
            database = lancedb.connect(location)
            there = name in database.list_tables().tables
            _check_state(there, source, update, location, "table", name)
            self.table = database.open_table(name) if there else database.create_table(name, schema=_schema(source))
            if there and source is not None:
                schemas = self.table.schema, _schema(source)
                refuse_misfit(location, name, *(dict(zip(one.names, one.types, strict=True)) for one in schemas))
        self._place = location, name

    def versions(self) -> dict[str, str]:
        found = self.table.search().select(["id", "version"]).limit(self.table.count_rows()).to_arrow()
        return dict(zip(found["id"].to_pylist(), found["version"].to_pylist(), strict=True))

    def write(self, records: Records) -> None:
        columns = {"id": records.ids, "version": records.versions, "vector": list(records.vectors)}
        if records.texts is not None:
            columns |= {"text": records.texts, "words": [" ".join(tokens(text)) for text in records.texts]}
        columns |= {name: records.details[name].combine_chunks() for name in records.details.column_names}
        with refusals("LanceDB", *self._place):
            rows = pa.table(columns).select(self.table.schema.names).cast(self.table.schema)
            merge = self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(rows)

    def delete(self, ids: list[str]) -> None:
        self.table.delete(f"id IN ({', '.join(map(_quoted, ids))})")

    def finish(self, index: bool) -> None:
        there = {column for one in self.table.list_indices() for column in one.columns}
        with refusals("LanceDB", *self._place):
            if "words" in self.table.schema.names and "words" not in there:
                plain = {"stem": False, "remove_stop_words": False, "ascii_folding": False, "max_token_length": None}
                self.table.create_fts_index("words", base_tokenizer="whitespace", **plain)
            for field in self.table.schema:
                if field.name not in ("id", "version", "vector", "text", "words", *there):
                    self.table.create_scalar_index(
                        field.name, index_type="LABEL_LIST" if pa.types.is_list(field.type) else "BTREE"
                    )
            if index and "vector" not in there:
                self.table.create_index(metric="cosine", index_type="IVF_HNSW_SQ")
            self.table.optimize()

    def search(self, asked: Asked, filters: Sequence[Filter], k: int) -> list[tuple[str, float]]:
        condition = " AND ".join(map(_sql, filters)) or None
        with refusals("LanceDB", *self._place):
            return self._search(asked, condition, k)

    def _search(self, asked: Asked, condition: str | None, k: int) -> list[tuple[str, float]]:
        if not asked.weight:
            query = self.table.search(asked.vector).distance_type("cosine")
            if condition:
                query = query.where(condition, prefilter=True)
            rows = query.refine_factor(2).select(["id", "_distance"]).limit(k).to_list()
            return [(row["id"], 1 - row["_distance"]) for row in rows]
        query = self.table.search(query_type="hybrid").vector(asked.vector).text(" ".join(asked.words))
        if condition:
            query = query.where(condition, prefilter=True)
        query = query.distance_type("cosine").limit(max(k, CANDIDATES)).rerank(_weigher()(asked), normalize="score")
        rows = query.to_arrow().select(["id", "_relevance_score"])[:k].to_pylist()
        return [(row["id"], row["_relevance_score"]) for row in rows]


def _schema(source: Source) -> pa.Schema:
    texts = {} if source.texts is None else {"text": pa.string(), "words": pa.string()}
    vector = {"vector": pa.list_(pa.float32(), source.vectors.dimension)}
    fields = {"id": pa.string(), "version": pa.string()} | vector | texts
    return pa.schema(fields | {field.name: field.type for field in source.details.schema})


def _weigher():
    """Return the class of LanceDB's rerankers that takes vectors and words together."""
    from lancedb.rerankers import Reranker

    class Weigher(Reranker):
        """LanceDB hands over what vectors and what words have found, with all columns."""

        def __init__(self, asked: Asked):
            super().__init__("relevance")
            self._asked = asked

        def rerank_hybrid(self, query: str, vector_results: pa.Table, fts_results: pa.Table) -> pa.Table:
            found: dict[str, float] = {}
            weight, shares = self._asked.weight, dict(zip(*self._asked.terms, strict=True))
            for table in (vector_results, fts_results):
                vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, len(self._asked.vector))
                cosines = (vectors @ self._asked.vector).tolist()
                rows = zip(table["id"].to_pylist(), table["text"].to_pylist(), cosines, strict=True)
                for identifier, text, cosine in rows:
                    terms = terms_of(text or "", self._asked.mean_length)
                    words = sum(shares.get(place, 0.0) * value for place, value in zip(*terms, strict=True))
                    found[identifier] = (1 - weight) * cosine + weight * words
            order = sorted(found, key=lambda name: (-found[name], name))
            scores = pa.array([found[name] for name in order], pa.float32())
            return pa.table({"id": pa.array(order, pa.string()), "_relevance_score": scores})

    return Weigher


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _sql(one: Filter) -> str:
    """Return a filter as LanceDB's SQL; a column's name was checked to be one of the table's."""
    value = _quoted(one.value) if isinstance(one.value, str) else repr(one.value)
    column = f"`{one.column}`"
    return f"array_has({column}, {value})" if one.is_list else f"{column} {one.comparison} {value}"


class QdrantStore(Engine):
    """A collection of Qdrant, in a folder or on a server; the words are a sparse vector "words". See `Store`."""

    def __init__(self, location: str, name: str, source: Source | None = None, update: bool = False):
        qdrant = _library("qdrant_client", "qdrant")
        models, failure = qdrant.models, _library("qdrant_client.http.exceptions", "qdrant").ApiException
        refuse_place(location)
        is_server = location.startswith(SERVER)
        if ":" in location and not is_server:
            raise UserError(
                f"--location {address(location)} would be a folder of that name: the address of a server begins with "
                "http:// or https://, as in http://localhost:6333."
            )
        if not is_server and not Path(location).is_dir():  # which would be made
            _check_state(False, source, update, location, "collection", name)
        self._models, self._errors, self._place, self._name = models, failure, (location, name), name
        with refusals("Qdrant", location, name, failure):
            key = os.environ.get("QDRANT_API_KEY")
            place = {"url": location, "api_key": key, "check_compatibility": False}
            self.client = qdrant.QdrantClient(**place if is_server else {"path": location})
            there = self.client.collection_exists(name)
            _check_state(there, source, update, location, "collection", name)
            if not there:
                self.client.create_collection(
                    name,
                    vectors_config=models.VectorParams(size=source.vectors.dimension, distance=models.Distance.COSINE),
                    sparse_vectors_config={"words": models.SparseVectorParams()},
                )
                for field in source.details.schema if is_server else ():
                    kind = "float" if pa.types.is_floating(field.type) else "keyword"
                    self.client.create_payload_index(name, _key(field.name), field_schema=kind)
        self._mean_length = source.mean_length if source else 0.0

    def versions(self) -> dict[str, str]:
        found, place = {}, None
        while True:
            points, place = self.client.scroll(self._name, limit=READ, offset=place, with_payload=["id", "version"])
            if not all("version" in (point.payload or ()) for point in points):
                raise UserError(f"{self._name!r} holds what this command has not written: give another --name.")
            found |= {point.payload["id"]: point.payload["version"] for point in points}
            if place is None:
                return found

    def write(self, records: Records) -> None:
        models, details = self._models, records.details.to_pylist() or [{}] * len(records.ids)
        points = []
        for row, identifier in enumerate(records.ids):
            payload = {"id": identifier, "version": records.versions[row]} | details[row]
            vector = {"": records.vectors[row].tolist()}
            if records.texts is not None:
                payload["text"] = records.texts[row]
                terms = terms_of(records.texts[row], self._mean_length)
                vector["words"] = models.SparseVector(indices=terms.places, values=terms.values)
            points.append(models.PointStruct(id=point_of(identifier), vector=vector, payload=payload))
        with refusals("Qdrant", *self._place, self._errors):
            self.client.upsert(self._name, points, wait=True)

    def delete(self, ids: list[str]) -> None:
        self.client.delete(self._name, self._models.PointIdsList(points=list(map(point_of, ids))), wait=True)

    def finish(self, index: bool) -> None:
        pass

    def search(self, asked: Asked, filters: Sequence[Filter], k: int) -> list[tuple[str, float]]:
        models, most = self._models, max(k, CANDIDATES)
        condition = models.Filter(must=[self._condition(one) for one in filters]) if filters else None
        told = {"limit": k, "with_payload": ["id"]}
        vector = asked.vector.tolist()
        if not asked.weight:
            told |= {"query": vector, "query_filter": condition}
        else:
            words = models.SparseVector(indices=asked.terms.places, values=asked.terms.values)
            every = {"filter": condition, "limit": most}
            # First what vectors and words find; then both scores of all that.
            both = [models.Prefetch(query=vector, **every), models.Prefetch(query=words, using="words", **every)]
            parts = [
                models.Prefetch(prefetch=both, query=vector, limit=2 * most),
                models.Prefetch(prefetch=both, query=words, using="words", limit=2 * most),
            ]
            shares = [
                models.MultExpression(mult=[1 - asked.weight, "$score[0]"]),
                models.MultExpression(mult=[asked.weight, "$score[1]"]),
            ]
            formula = models.FormulaQuery(
                formula=models.SumExpression(sum=shares), defaults={"$score[0]": -1.0, "$score[1]": 0.0}
            )
            told |= {"prefetch": parts, "query": formula}
        with refusals("Qdrant", *self._place, self._errors):
            points = self.client.query_points(self._name, **told).points
        return [(point.payload["id"], point.score) for point in points]

    def _condition(self, one: Filter):
        models, key = self._models, _key(one.column)
        if isinstance(one.value, str):
            return models.FieldCondition(key=key, match=models.MatchValue(value=one.value))
        names = {"<": ["lt"], "<=": ["lte"], ">": ["gt"], ">=": ["gte"], "=": ["gte", "lte"]}[one.comparison]
        return models.FieldCondition(key=key, range=models.Range(**dict.fromkeys(names, one.value)))

    def close(self) -> None:
        self.client.close()


def _key(column: str) -> str:
    """Return a column's name as Qdrant takes it; without the quotes, dots and spaces would make it a path."""
    return f'"{column}"'


def point_of(identifier: str) -> str:
    """Return the number of a product in Qdrant, which takes UUIDs only."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, identifier))


class PostgresStore(Engine):
    """A table of PostgreSQL with pgvector; see `Store`."""

    def __init__(self, location: str, name: str, source: Source | None = None, update: bool = False):
        psycopg = _library("psycopg", "pgvector")
        if not location.startswith(("postgresql://", "postgres://")):
            raise UserError(f"--location {address(location)}: give an address as postgresql://user@host/database.")
        self._sql, self._name, self._place = psycopg.sql, psycopg.sql.Identifier(name), (location, name)
        self._errors = psycopg.Error
        with refusals("PostgreSQL", location, name, psycopg.Error):
            self.connection = psycopg.connect(location, autocommit=True)
            self.connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            found = self.connection.execute("SELECT to_regclass(%s)", [json.dumps(name)]).fetchone()[0]
            _check_state(bool(found), source, update, location, "table", name)
            if not found:
                self._create(source)
            columns = self.connection.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped "
                "ORDER BY attnum",
                [json.dumps(name)],
            )
            self._columns = [column for (column,) in columns]
            if source is not None:
                refuse_misfit(location, name, dict.fromkeys(self._columns), dict.fromkeys(self._kinds(source)))
        self._mean_length = source.mean_length if source else 0.0

    def _kinds(self, source: Source) -> dict[str, str]:
        columns = {"id": "text PRIMARY KEY", "version": "text", "vector": f"vector({source.vectors.dimension})"}
        if source.texts is not None:
            columns |= {"text": "text", "terms": f"sparsevec({TERMS})", "words": "tsvector"}
        for field in source.details.schema:
            kind = "double precision" if pa.types.is_floating(field.type) else "text"
            columns[field.name] = "text[]" if pa.types.is_list(field.type) else kind
        return columns

    def _create(self, source: Source) -> None:
        sql, columns = self._sql, self._kinds(source).items()
        lines = sql.SQL(", ").join(sql.Identifier(name) + sql.SQL(f" {kind}") for name, kind in columns)
        self.connection.execute(sql.SQL("CREATE TABLE {} ({})").format(self._name, lines))

    def versions(self) -> dict[str, str]:
        return dict(self.connection.execute(self._sql.SQL("SELECT id, version FROM {}").format(self._name)).fetchall())

    def write(self, records: Records) -> None:
        sql = self._sql
        columns = {"id": records.ids, "version": records.versions, "vector": map(_literal, records.vectors)}
        if records.texts is not None:
            columns["text"] = records.texts
            columns["terms"] = [_sparse_literal(terms_of(text, self._mean_length)) for text in records.texts]
            columns["words"] = [sorted(set(tokens(text))) for text in records.texts]
        columns |= {name: records.details[name].to_pylist() for name in records.details.column_names}
        kinds = {"vector": "%s::vector", "terms": "%s::sparsevec", "words": "array_to_tsvector(%s::text[])"}
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        values = sql.SQL(", ").join(sql.SQL(kinds.get(name, "%s")) for name in columns)
        changes = sql.SQL(", ").join(
            sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name)) for name in columns if name != "id"
        )
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT (id) DO UPDATE SET {}")
        with refusals("PostgreSQL", *self._place, self._errors), self.connection.transaction():
            self.connection.cursor().executemany(
                statement.format(self._name, names, values, changes), list(zip(*columns.values(), strict=True))
            )

    def delete(self, ids: list[str]) -> None:
        self.connection.execute(self._sql.SQL("DELETE FROM {} WHERE id = ANY(%s)").format(self._name), [ids])

    def finish(self, index: bool) -> None:
        made = {"words": "gin (words)"} if "words" in self._columns else {}
        made |= {"vector": "hnsw (vector vector_cosine_ops)"} if index else {}
        with refusals("PostgreSQL", *self._place, self._errors):
            for column, how in made.items():
                named = self._sql.Identifier(f"{self._place[1]}_{column}")
                statement = self._sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} USING " + how)
                self.connection.execute(statement.format(named, self._name))
            self.connection.execute(self._sql.SQL("ANALYZE {}").format(self._name))

    def search(self, asked: Asked, filters: Sequence[Filter], k: int) -> list[tuple[str, float]]:
        sql = self._sql
        values = {"vector": _literal(asked.vector), "k": k, "weight": asked.weight, "candidates": max(k, CANDIDATES)}
        values |= {f"value{number}": one.value for number, one in enumerate(filters)}
        conditions = [
            sql.SQL("{0} = ANY({1})" if one.is_list else "{1} " + one.comparison + " {0}").format(
                sql.Placeholder(f"value{number}"), sql.Identifier(one.column)
            )
            for number, one in enumerate(filters)
        ]
        every = sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true")
        told = {"table": self._name, "every": every}
        if not asked.weight:
            statement = sql.SQL(
                "SELECT id, 1 - (vector <=> %(vector)s::vector) AS score FROM {table} WHERE {every} "
                "ORDER BY vector <=> %(vector)s::vector LIMIT %(k)s"
            )
        else:
            values["words"] = " | ".join(f"'{word}'" for word in asked.words)
            values["terms"] = _sparse_literal(asked.terms)
            statement = sql.SQL(
                "WITH near AS (SELECT id FROM {table} WHERE {every} ORDER BY vector <=> %(vector)s::vector "
                "LIMIT %(candidates)s), said AS (SELECT id FROM {table} WHERE {every} AND words @@ %(words)s::tsquery "
                "ORDER BY terms <#> %(terms)s::sparsevec LIMIT %(candidates)s) "
                "SELECT id, (1 - %(weight)s) * (1 - (vector <=> %(vector)s::vector)) "
                "- %(weight)s * (terms <#> %(terms)s::sparsevec) AS score FROM {table} "
                "WHERE id IN (SELECT id FROM near UNION SELECT id FROM said) ORDER BY score DESC, id LIMIT %(k)s"
            )
        with refusals("PostgreSQL", *self._place, self._errors), self.connection.transaction():
            # As many as the index must find; and with a filter it goes on until there are enough that fit.
            self.connection.execute(f"SET LOCAL hnsw.ef_search = {CANDIDATES}")
            self.connection.execute("SET LOCAL hnsw.iterative_scan = strict_order")
            return self.connection.execute(statement.format(**told), values).fetchall()

    def close(self) -> None:
        self.connection.close()


def _literal(vector: np.ndarray) -> str:
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


def _sparse_literal(terms: Sparse) -> str:
    pairs = ",".join(f"{place + 1}:{value!r}" for place, value in zip(terms.places, terms.values, strict=True))
    return f"{{{pairs}}}/{TERMS}"


ENGINES = {"lancedb": LanceStore, "qdrant": QdrantStore, "pgvector": PostgresStore}
