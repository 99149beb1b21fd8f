"""Files for OpenSearch and Elasticsearch, for those who have such a server: `--store opensearch --location FOLDER`.

    index.json             settings and mapping: PUT /products
    bulk-00000.ndjson ...  the products: POST /_bulk, one after another
    search.json            a query to adapt: vectors, words and a filter in one
    pipeline.json          of OpenSearch, which adds the two scores up in a pipeline: PUT /_search/pipeline/products
    versions.parquet       what is written already; an update adds files with what has changed since

The words are searched in the field `words`, which is split at spaces only.
"""

import json
from abc import abstractmethod
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common_moon2.cli import UserError
from common_moon2.files import staged, write_json, write_text
from evaluation.models.bm25 import K1, B, tokens
from evaluation.stores.engines import SERVER, refuse_misfit, refuse_place
from evaluation.stores.records import CANDIDATES, Records, Source, Store

INDEX, VERSIONS = "index.json", "versions.parquet"
ANALYSIS = {"analyzer": {"words": {"type": "custom", "tokenizer": "whitespace"}}}
SIMILARITY = {"default": {"type": "BM25", "k1": K1, "b": B}}


class BulkStore(Store):
    """A folder of files for one of the two servers; see `Store`."""

    def __init__(self, location: str, name: str, source: Source, update: bool = False):
        refuse_place(location)
        if location.startswith(SERVER):
            raise UserError(
                f"--location {location}: give a folder for the files; docs/search.md says how to send them."
            )
        self.folder, self.name, self._source = Path(location), name, source
        self._written: dict[str, str] = {}
        there = (self.folder / VERSIONS).exists()
        if there and not update:
            raise UserError(f"{location} has such files already: bring them up to date with --update, or delete them.")
        if there:
            table = pq.read_table(self.folder / VERSIONS)
            self._written = dict(zip(table["id"].to_pylist(), table["version"].to_pylist(), strict=True))
            self._files = int(table.schema.metadata[b"files"])
            index = table.schema.metadata.get(b"name", name.encode()).decode()
            if index != name:  # which lacks what the earlier files hold
                raise UserError(
                    f"{location} has the files of the index {index!r}: give --name {index}, or another --location."
                )
        else:
            self._files = 0
        # Of an interrupted run: this one may write fewer, and what is left would be sent after them.
        if there:
            wanted = self._settings()[INDEX]["mappings"]["properties"]
            mapped = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))["mappings"]["properties"]
            refuse_misfit(location, name, mapped, wanted)
        for path in self.folder.glob("bulk-*.ndjson"):
            if int(path.stem.removeprefix("bulk-")) >= self._files:
                path.unlink()
        if not there:
            for file, content in self._settings().items():
                write_json(self.folder / file, content)

    def versions(self) -> dict[str, str]:
        return dict(self._written)

    def write(self, records: Records) -> None:
        lines = []
        details = records.details.to_pylist() or [{}] * len(records.ids)
        for row, identifier in enumerate(records.ids):
            document = {"id": identifier, "vector": records.vectors[row].tolist()} | details[row]
            if records.texts is not None:
                text = records.texts[row]
                document |= {"text": text, "words": " ".join(tokens(text))}
            lines += [{"index": {"_index": self.name, "_id": identifier}}, document]
        self._write(lines)
        self._written |= dict(zip(records.ids, records.versions, strict=True))

    def delete(self, ids: list[str]) -> None:
        self._write([{"delete": {"_index": self.name, "_id": identifier}} for identifier in ids])
        for identifier in ids:
            del self._written[identifier]

    def _write(self, lines: list[dict]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text(self.folder / f"bulk-{self._files:05d}.ndjson", text)
        self._files += 1

    def finish(self, index: bool) -> None:
        """Note what is written; until then an interrupted run writes the same files again."""
        columns = {"id": list(self._written), "version": list(self._written.values())}
        table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
        with staged(self.folder / VERSIONS) as temporary:
            pq.write_table(table.replace_schema_metadata({"files": str(self._files), "name": self.name}), temporary)

    @abstractmethod
    def _settings(self) -> dict[str, dict]:
        """Return the files that are written once."""

    def _fields(self, vector: dict) -> dict:
        fields = {"id": {"type": "keyword"}, "vector": vector}
        if self._source.texts is not None:
            fields |= {"text": {"type": "text", "index": False}, "words": {"type": "text", "analyzer": "words"}}
        for field in self._source.details.schema:
            fields[field.name] = {"type": "double" if pa.types.is_floating(field.type) else "keyword"}
        return {"dynamic": "strict", "properties": fields}

    def _example(self) -> tuple[list[float], list[dict]]:
        """Return a vector to replace, and a filter by the first column that is kept."""
        kept = self._source.details.schema
        condition = [{"exists": {"field": kept.names[0]}}] if len(kept) else [{"match_all": {}}]
        return self._source.vectors.read(0, 1)[0].tolist(), condition


class ElasticsearchFiles(BulkStore):
    """For Elasticsearch from 8.12 on, which adds the scores of `knn` and `query` up, each with its boost."""

    def _settings(self) -> dict[str, dict]:
        size = self._source.vectors.dimension
        field = {"type": "dense_vector", "dims": size, "index": True, "similarity": "cosine"}
        vector, condition = self._example()
        knn = {"field": "vector", "query_vector": vector, "k": CANDIDATES, "num_candidates": 2 * CANDIDATES}
        words = {"bool": {"should": [{"match": {"words": {"query": "red mug", "boost": 0.05}}}], "filter": condition}}
        settings = {"analysis": ANALYSIS, "similarity": SIMILARITY}
        return {
            INDEX: {"settings": settings, "mappings": self._fields(field)},
            "search.json": {"size": 10, "knn": knn | {"filter": condition, "boost": 0.5}, "query": words},
        }


class OpenSearchFiles(BulkStore):
    """For OpenSearch from 2.11 on, which normalises and weighs the scores of a hybrid query in a search pipeline."""

    def _settings(self) -> dict[str, dict]:
        method = {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"}
        field = {"type": "knn_vector", "dimension": self._source.vectors.dimension, "method": method}
        vector, condition = self._example()
        fits = {"bool": {"filter": condition}}
        words = {"bool": {"must": [{"match": {"words": {"query": "red mug"}}}], "filter": condition}}
        knn = {"knn": {"vector": {"vector": vector, "k": CANDIDATES, "filter": fits}}}
        settings = {"index": {"knn": True, "similarity": SIMILARITY}, "analysis": ANALYSIS}
        weights = {"technique": "arithmetic_mean", "parameters": {"weights": [0.5, 0.5]}}
        processor = {"normalization": {"technique": "min_max"}, "combination": weights}
        return {
            INDEX: {"settings": settings, "mappings": self._fields(field)},
            "pipeline.json": {"phase_results_processors": [{"normalization-processor": processor}]},
            "search.json": {"size": 10, "query": {"hybrid": {"queries": [knn, words]}}},
        }


FILES = {"opensearch": OpenSearchFiles, "elasticsearch": ElasticsearchFiles}
