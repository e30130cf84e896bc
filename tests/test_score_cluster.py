"""Ray: whatever a cluster loses on the way, the bytes are those of one machine."""

import sys
import threading
import time

import pytest

from ddeval.errors import InputError
from ddeval.models.checkpoint import load_checkpoint
from ddeval.score import cluster, folder
from ddeval.score.run import Settings, prepare, score
from tests.score_fixture import make_artefact, make_manifest

DATA_FILES = (folder.PREDICTIONS_FILE, folder.EMBEDDINGS_FILE, folder.QUARANTINE_FILE)
SETTINGS = Settings(device="cpu", batch_size=4, shard_size=4)


@pytest.fixture
def home(tmp_path):
    make_manifest(tmp_path, 160)
    make_artefact(tmp_path / "tiny")
    return tmp_path


def asked(home, out="run", settings=SETTINGS):
    """The job and the order for it."""
    manifest = home / "manifest.csv"
    job = prepare(load_checkpoint(home / "tiny"), manifest, settings=settings, out=home / out)
    return job, cluster.order_of(str(home / "tiny"), manifest, job, settings=settings, workers=1)


def test_without_ray_one_line_says_what_to_install(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"no package ray.*pip install 'ddeval\[ray\]'"):
        cluster.execute_on_ray(*asked(home))
    assert not (home / "run").exists()


def test_a_shard_that_a_worker_scores_is_the_part_of_the_local_engine(home):
    job, order = asked(home)
    cluster.begin(job.out, job.plan, job.facts)
    for shard in reversed(range(job.plan.n_shards)):
        assert cluster.score_shard(order, shard) is None
    cluster.finish(job.out)
    local = score(
        load_checkpoint(home / "tiny"), home / "manifest.csv", settings=SETTINGS, out=home / "local"
    )
    for name in DATA_FILES:
        assert (job.out / name).read_bytes() == (local / name).read_bytes(), name


def test_a_worker_that_would_compute_otherwise_refuses_by_name(home):
    job, _ = asked(home)
    cluster.begin(job.out, job.plan, job.facts)
    _, other = asked(home, settings=Settings(device="cpu", batch_size=8, shard_size=4))
    refused = cluster.score_shard(other, 0)
    assert (refused.found, "batch size 4" in refused.expected) == ("batch size 8", True)
    assert not list((job.out / "parts").glob("part-*"))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_cluster_that_loses_a_node_writes_the_bytes_of_one_machine(home):
    """Three nodes, one killed while it scores; then a shard that is refused is named."""
    ray_cluster = pytest.importorskip("ray.cluster_utils")
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    nodes = ray_cluster.Cluster(initialize_head=True, head_node_args=node)
    doomed, _ = nodes.add_node(**node), nodes.add_node(**node)
    killed = []

    def kill_one():
        deadline = time.monotonic() + 120
        while len(list((home / "run" / "parts").glob("part-*"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        nodes.remove_node(doomed, allow_graceful=False)
        killed.append(len(list((home / "run" / "parts").glob("part-*"))))

    try:
        nodes.wait_for_nodes()
        killer = threading.Thread(target=kill_one)
        killer.start()
        job, order = asked(home)
        cluster.execute_on_ray(job, order, address=nodes.address)
        killer.join()
        refused, order = asked(home, "refused")
        other = order._replace(settings=Settings(device="cpu", batch_size=8, shard_size=4))
        with pytest.raises(InputError, match=r"shard \d+ of 40: .*found batch size 8"):
            cluster.execute_on_ray(refused, other, address=nodes.address)
    finally:
        nodes.shutdown()
    assert 5 <= killed[0] < job.plan.n_shards, "the node was lost while there was work"
    local = score(
        load_checkpoint(home / "tiny"), home / "manifest.csv", settings=SETTINGS, out=home / "local"
    )
    for name in DATA_FILES:
        assert (job.out / name).read_bytes() == (local / name).read_bytes(), name
    assert not list((job.out / "parts").glob("part-*"))
