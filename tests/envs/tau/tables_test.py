from __future__ import annotations

from copy import deepcopy

from polyturn.envs.tau.tables import Delivered, Tables

GIVEN = {"users": {"ann": {"age": 7, "tags": ["x"]}, "ben": {"age": 8, "tags": []}}, "orders": {}}


def test_what_one_changes_no_other_sees() -> None:
    shared = Delivered(deepcopy(GIVEN), "hash")
    mine, yours = Tables(shared), Tables(shared)
    ann = mine.find("users", "ann")
    assert ann is not None
    ann["tags"].append("y")  # deep inside the record
    mine.add("orders", "o1", {"of": "ann"})
    assert yours.find("users", "ann") == {"age": 7, "tags": ["x"]} and yours.find("orders", "o1") is None
    assert shared.tables == GIVEN
    assert mine.find("users", "ann") is ann and mine.find("users", "nobody") is None


def test_the_state_is_what_differs() -> None:
    tables = Tables(Delivered(GIVEN, "hash"))
    assert tables.state() == {"delivered": "hash", "changed": {}}
    ann = tables.find("users", "ann")
    assert ann is not None
    ann["age"] = 9
    tables.add("orders", "o1", {"of": "ann"})
    state = tables.state()
    assert state["changed"] == {"users": {"ann": {"age": 9, "tags": ["x"]}}, "orders": {"o1": {"of": "ann"}}}
    state["changed"]["users"]["ann"]["age"] = 1  # a copy
    assert ann["age"] == 9
    ann["age"] = 7
    assert tables.state()["changed"] == {"orders": {"o1": {"of": "ann"}}}  # as it was delivered: no difference


def test_rows_show_the_own_records_in_the_delivered_order_then_new_ones() -> None:
    tables = Tables(Delivered(GIVEN, "hash"))
    ann = tables.find("users", "ann")
    assert ann is not None
    ann["age"] = 9
    tables.add("users", "cleo", {"age": 1})
    assert [(key, row["age"]) for key, row in tables.rows("users")] == [("ann", 9), ("ben", 8), ("cleo", 1)]
