"""What `ddeval vet serve` needs at hand before it serves: the app, a desk, and the demo's two readers."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddeval.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from ddeval.data.conditions import Conditions
    from ddeval.vet.store import Store

DEMO_CASES = 120
DEMO_READERS = ("reader-1", "reader-2")


def read_queue(
    path: Path, manifest: "pd.DataFrame"
) -> "tuple[pd.DataFrame, dict[str, Any], pd.DataFrame | None]":
    """QUEUE, its metadata and the pairs to decide, from an audit folder; from a lone queue no pairs.

    In an audit folder each case also takes `rank` (of its most doubtful image) and `predicted_label` (the
    model's first choice on most of its images, the most doubtful one's where they tie), for the admin's
    dashboard and the audit's page alone.
    """
    from ddeval import io

    folder = path if path.is_dir() else path.parent
    if not (folder / "audit.json").is_file():
        return (*io.read_parquet(path), None)
    queue, metadata = io.read_parquet(folder / "queue.parquet" if path.is_dir() else path)
    issues = io.read_parquet(folder / "issues.parquet")[0].sort_values("rank", kind="stable")
    case_of = manifest.set_index("image_id")["case_id"]
    by_case = issues.groupby(issues["image_id"].map(case_of), sort=False)
    queue["rank"] = queue["case_id"].map(by_case["rank"].min())
    predicted = by_case["model_label"].agg(lambda said: str(said.value_counts(sort=False).idxmax()))
    queue["predicted_label"] = queue["case_id"].map(predicted)
    return queue, metadata, io.read_parquet(folder / "duplicates.parquet")[0]


def run(desk: Any, *, say: Callable[[str], None], **address: Any) -> None:
    """Serve `desk` until interrupted."""
    server = vet_app("server")
    where = server.Address(**address)
    server.check_exposure(desk, where)
    say(f"serving  {where.public_url or f'http://{where.host}:{where.port}/'}   (Ctrl-C stops)")
    server.serve(desk, where)


def sign_on(issuer: str, client_id: str) -> Any:
    """The OpenID provider readers may log in with, or None."""
    return vet_app("sign_on").read_sign_on(issuer, client_id)


def project_desk(
    store: "Store",
    manifest: "pd.DataFrame",
    data: Path | None,
    images: list[Path],
    conditions: "Conditions",
    schema: Path | None,
) -> Any:
    """The desk of the user's own data."""
    from ddeval.config import config_file
    from ddeval.data.fields import read_schema
    from ddeval.project import find_project, image_roots

    project = find_project()
    roots = image_roots(images, data)
    if data is not None and not roots:
        roots = [data.resolve().parent]
    if schema is None and project is not None and project.settings.feature_schema:
        schema = Path(project.location(project.settings.feature_schema))
    has_answers = any(str(column).startswith("q.") for column in manifest.columns)
    path = schema or (config_file("feature_schema.json", where="--schema") if has_answers else None)
    folder = store.path.parent if store.path else Path.cwd()
    return vet_app("desk").Desk(
        store=store,
        manifest=manifest,
        image_roots=tuple(roots),
        conditions=conditions,
        schema=read_schema(path) if path else None,
        cache=folder / ".ddeval" / "photographs",
    )


def demo_desk(say: Callable[[str], None]) -> Any:
    """The embedded data set with a batch of its test split and two readers, whose passwords are printed."""
    import secrets

    import numpy as np
    import pandas as pd

    from ddeval.cache import home
    from ddeval.config import config_file
    from ddeval.data.conditions import read_conditions
    from ddeval.data.demo import make_demo
    from ddeval.data.fields import read_schema
    from ddeval.data.manifest import manifest_sha256, read_manifest
    from ddeval.vet.accounts import accounts, invite, reset_link, use_link
    from ddeval.vet.batches import open_batch, practice_cases
    from ddeval.vet.store import Store

    folder = home() / "vet-demo"
    path = folder / "manifest.csv"
    manifest = read_manifest(path if path.is_file() else make_demo(folder))
    store = Store(folder / "vet.db")
    known = {account.code for account in accounts(store)}
    for code, role in ((DEMO_READERS[0], "reader"), (DEMO_READERS[1], "adjudicator"), ("admin-1", "admin")):
        token = reset_link(store, code) if code in known else invite(store, code, role=role)  # type: ignore[arg-type]
        password = secrets.token_urlsafe(12)
        use_link(store, token, password)
        say(f"log in   {code:12} password {password}   ({role})")
    cases = manifest[manifest["split"] == "test"].drop_duplicates("case_id").head(DEMO_CASES)
    queue = pd.DataFrame(
        {
            "case_id": cases["case_id"].to_numpy(),
            "kind": "random",
            "stratum": "all",
            "inclusion_probability": DEMO_CASES
            / manifest.loc[manifest["split"] == "test", "case_id"].nunique(),
            "given_label": cases["label"].to_numpy(),
            "label_basis": cases["label_basis"].to_numpy(),
        }
    )
    practised = practice_cases(manifest, queue, n=5, rng=np.random.default_rng(0))
    open_batch(
        store,
        queue,
        name="demo",
        split="test",
        seed=0,
        manifest_sha256=manifest_sha256(manifest),
        settings={"practice_cases": practised},
    )
    return vet_app("desk").Desk(
        store=store,
        manifest=manifest,
        image_roots=(folder,),
        conditions=read_conditions(config_file("conditions.yaml", where="conditions")),
        schema=read_schema(config_file("feature_schema.json", where="schema")),
        cache=folder / "photographs",
        is_synthetic=True,
    )


def vet_app(module: str) -> Any:
    """A module of apps/vet, which lies beside the package in a checkout and inside it in a wheel."""
    package = Path(__file__).parents[1]
    home = next((h for h in (package.parent, package) if (h / "apps" / "vet" / "server.py").is_file()), None)
    if home is None:
        raise InputError(
            "ddeval vet serve", "no app beside the package", expected="apps/vet", todo="Reinstall ddeval."
        )
    if str(home) not in sys.path:
        sys.path.append(str(home))
    try:
        return importlib.import_module(f"apps.vet.{module}")
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in ("streamlit", "starlette", "sqlalchemy", "pwdlib"):
            raise InputError(
                "ddeval vet serve",
                f"no package {error.name}",
                expected="the app extra",
                todo="pip install 'ddeval[app]'",
            ) from error
        raise
