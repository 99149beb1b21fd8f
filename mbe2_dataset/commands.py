"""What the commands of `python -m mbe2_dataset` print."""

from dataclasses import asdict
from pathlib import Path

from mbe2_dataset import pipeline
from mbe2_dataset.arguments import Build, Check, Push
from mbe2_dataset.checks.check import check_dataset, data_folder
from mbe2_dataset.checks.page import write_report
from mbe2_dataset.parallel import Stopwatch
from mbe2_dataset.publish import plan_push, push_dataset


def build(told: Build) -> dict:
    """Build a data set, or say what that would take."""
    if told.dry_run:
        return pipeline.dry_run(told)
    watch = Stopwatch()
    built, catalogue, understood = pipeline.run(told, watch)
    counts = catalogue.summary["counts"]
    print(
        f"rows in {counts['rows_in']:,} = used {counts['rows_out']:,} + set aside {counts['rows_quarantined']:,}; "
        f"pictures set aside {counts['pictures_quarantined']:,}"
    )
    quarantine = catalogue.folder / "quarantine.jsonl"
    if counts["rows_quarantined"] or counts["pictures_quarantined"]:
        print(f"reasons: {quarantine}")
    for config, splits in built.rows.items():
        print(f"{config:<9}" + ", ".join(f"{split} {rows:,} rows" for split, rows in splits.items()))
    for kind, count in sorted(built.counts["augmented field"].items()):
        print(f"{kind}: {count:,}")
    output = Path(told.output)
    print(f"took: {watch}")
    print(f"written to {output}" if built.is_new else f"{output} is up to date: nothing was written")
    print(f'load with  load_dataset("{output}")')
    facts = {"output": output, "is_new": built.is_new, "rows": built.rows, "counts": built.counts}
    facts |= {"catalogue": counts, "quarantine": quarantine}
    return facts | ({"understood": understood.as_dict()} if understood else {})


def check(told: Check) -> dict:
    """Check a data set and, if asked, write the report."""
    folder = data_folder(told.dataset, told.revision)
    report = check_dataset(folder, model=told.model, num_proc=told.num_proc, name=told.dataset)
    print("\n".join(report.lines()))
    if told.report is not None:
        write_report(folder, report, told.report, told.samples)
        print(f"the report is in {told.report}")
    return report.as_dict() | {"failed": report.failed}


def push(told: Push) -> dict:
    """Upload a data set, or list what would be uploaded."""
    if told.dry_run:
        sizes = plan_push(told.dataset, told.repo, told.force, told.num_proc)
        for path, size in sizes.items():
            print(f"{size:>14,}  {path}")
        return {"repo": told.repo, "dry_run": True, "files": sizes}
    done = push_dataset(
        told.dataset, told.repo, told.private or None, told.tag, told.message, force=told.force, num_proc=told.num_proc
    )
    if done.uploaded or done.removed:
        print(f"uploaded {done.uploaded} files, removed {done.removed}")
    else:
        print("nothing was new: the Hub has these files already")
    print(f"{done.url} at commit {done.commit}" + (f", tag {told.tag}" if told.tag else ""))
    revision = f', revision="{told.tag}"' if told.tag else ""
    print(f'load with  load_dataset("{told.repo}"{revision})')
    return {"repo": told.repo, "tag": told.tag, **asdict(done)}
