"""The coordinator's store: what goes in comes out, and a damaged file is named, not half-read (rule 24)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.intents import PipelineRecord, Revision, Wish
from coordinator.store import Store
from slicemq.errors import StoreError
from slicemq.messages import Artifact
from tests.coordinator.site import blueprint, intent


def record(name: str = "faces") -> PipelineRecord:
    wanted = intent(name, max_slices=3)
    made = blueprint(wanted, ["pi-1", "pi-2"])
    revisions = {
        "3-00000001": Revision("3-00000001", wanted, made, "draining"),
        "4-00000002": Revision("4-00000002", wanted, made, "active"),
        "5-00000003": Revision("5-00000003", wanted, made, "preparing"),
    }
    found = PipelineRecord(name, wanted, 5, revisions, face=made)
    found.resend, found.status = 2, "what people read"
    return found


def test_an_intent_of_an_older_store_has_no_calibration_set(tmp_path: Path) -> None:
    wanted = replace(intent(), calibration=Artifact("c" * 64, 5))
    saved = replace(record(), intent=wanted)
    Store(tmp_path).save(7, [saved])
    (found,) = Store(tmp_path).load(0.0).records
    assert found.intent == wanted
    body = json.loads((tmp_path / "state.json").read_text())
    del body["pipelines"][0]["intent"]["calibration"]
    (tmp_path / "state.json").write_text(json.dumps(body))
    (found,) = Store(tmp_path).load(0.0).records
    assert found.intent == intent()


def test_what_goes_in_comes_out_except_what_only_prepared(tmp_path: Path) -> None:
    saved = record()
    saved.wish = Wish(intent(model="m2"), None)
    Store(tmp_path).save(7, [saved])
    stored = Store(tmp_path).load(100.0)
    (found,) = stored.records
    assert stored.term == 7
    assert (found.name, found.intent, found.face) == (saved.name, saved.intent, saved.face)
    assert (found.highest, found.resend, found.status) == (5, 2, "what people read")
    assert found.wish == saved.wish
    assert list(found.revisions) == ["3-00000001", "4-00000002"]
    assert found.active is not None
    assert found.active.blueprint == saved.revisions["4-00000002"].blueprint
    assert found.revisions["3-00000001"].deadline == 130.0
    assert list(tmp_path.iterdir()) == [tmp_path / "state.json"]


def test_a_first_deploy_that_waits_for_its_plan_is_not_kept_and_an_absent_store_is_empty(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")
    assert (store.load(0.0).term, store.load(0.0).records) == (0, ())
    store.save(1, [PipelineRecord("faces", wish=Wish(intent(), ("cli-1", "t")))])
    assert store.load(0.0).records == ()


@pytest.fixture
def body(tmp_path: Path) -> dict[str, Any]:
    Store(tmp_path).save(7, [record()])
    read: dict[str, Any] = json.loads((tmp_path / "state.json").read_text())
    return read


Damage = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        (lambda b: b.update(format=2), "format"),
        (lambda b: b.pop("term"), "term"),
        (lambda b: b.update(term=-1), "term"),
        (lambda b: b.update(term=float("inf")), "term"),
        (lambda b: b.update(pipelines={}), "pipelines"),
        (lambda b: b.update(pipelines=["x"]), "pipelines[0]"),
        (lambda b: b["pipelines"].append(b["pipelines"][0]), "twice"),
        (lambda b: b["pipelines"][0].update(name="no/id"), "pipelines[0].name"),
        (lambda b: b["pipelines"][0].update(highest="5"), "pipelines.faces.highest"),
        (lambda b: b["pipelines"][0].update(removed="no"), "pipelines.faces.removed"),
        (lambda b: b["pipelines"][0].pop("revisions"), "pipelines.faces.revisions"),
        (lambda b: b["pipelines"][0]["intent"]["model"].update(size=0), "pipelines.faces.intent"),
        (lambda b: b["pipelines"][0]["intent"].update(name="birds"), "pipelines.faces.intent.name"),
        (lambda b: b["pipelines"][0]["face"].update(window="many"), "window"),
        (lambda b: b["pipelines"][0]["revisions"][0].update(id="latest"), "revisions[0].id"),
        (lambda b: b["pipelines"][0]["revisions"][0].update(phase="probing"), "revisions[0].phase"),
        (lambda b: b["pipelines"][0]["revisions"][1].pop("blueprint"), "revisions[1].blueprint"),
    ],
)
def test_a_damaged_store_names_file_and_field(
    tmp_path: Path, body: dict[str, Any], damage: Damage, field: str
) -> None:
    damage(body)
    (tmp_path / "state.json").write_text(json.dumps(body))
    with pytest.raises(StoreError) as caught:
        Store(tmp_path).load(0.0)
    assert str(tmp_path / "state.json") in str(caught.value)
    assert field in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}'])
def test_a_file_that_is_no_store_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(StoreError, match="not a coordinator's store"):
        Store(tmp_path).load(0.0)
    assert (tmp_path / "state.json").read_bytes() == content


def test_a_number_is_never_below_a_revision_that_stands_there(tmp_path: Path, body: dict[str, Any]) -> None:
    """Rule 1."""
    body["pipelines"][0]["highest"] = 1
    (tmp_path / "state.json").write_text(json.dumps(body))
    assert Store(tmp_path).load(0.0).records[0].highest == 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(body: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    keys = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    return [place for key, inner in keys for place in [(body, key), *places(inner)]]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_stands_at_any_place_gives_a_store_or_a_store_error(tmp_path: Path, data: st.DataObject) -> None:
    Store(tmp_path).save(7, [record()])
    file = tmp_path / "state.json"
    body = json.loads(file.read_text())
    container, key = data.draw(st.sampled_from(places(body)))
    container[key] = data.draw(JSON)
    file.write_text(json.dumps(body))
    try:
        stored = Store(tmp_path).load(0.0)
    except StoreError:
        return
    else:
        Store(tmp_path).save(stored.term, stored.records)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_keeps_the_old_store_and_no_rubbish(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        store = Store(tmp_path)
        store.save(1, [record()])
        big = replace(intent(), options={"text": "x" * 200_000})
        with pytest.raises(StoreError, match="No space"):
            store.save(2, [PipelineRecord("birds", replace(big, name="birds"), 1)])
        assert store.load(0.0).term == 1
        assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
        store.save(3, [])
        assert store.load(0.0).term == 3
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_corrections_of_a_plan_outlast_a_restart(tmp_path: Path) -> None:
    """Rebalancing compares what runs with what its plan was made from."""
    saved = record()
    saved.revisions["4-00000002"].factors = {"s0": {"pi-1": 1.5}}
    Store(tmp_path).save(7, [saved])
    (found,) = Store(tmp_path).load(0.0).records
    assert found.revisions["4-00000002"].factors == {"s0": {"pi-1": 1.5}}
    assert found.revisions["3-00000001"].factors == {}


@pytest.mark.parametrize(
    "wrong", [7, [], {"s0": 1.5}, {"s0": {"pi-1": "x"}}, {"s0": {"pi-1": 0.0}}, {"s0": {"pi-1": True}}]
)
def test_wrong_corrections_are_named(tmp_path: Path, wrong: Any) -> None:
    Store(tmp_path).save(7, [record()])
    body = json.loads((tmp_path / "state.json").read_text())
    body["pipelines"][0]["revisions"][0]["factors"] = wrong
    (tmp_path / "state.json").write_text(json.dumps(body))
    with pytest.raises(StoreError, match=r"revisions\[0\]\.factors: expected positive numbers"):
        Store(tmp_path).load(0.0)
