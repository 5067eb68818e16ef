"""The shop's tools on a database of two products, with prices worked by hand."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest

from polyturn.envs.dialogue import Refused
from polyturn.envs.tau.retail import TOOLS, Retail
from polyturn.envs.tau.tables import Delivered, Tables

HOME = {"address1": "1 St", "address2": "", "city": "Rome", "country": "Italy", "state": "RM", "zip": "00100"}
ABSENT = dict.fromkeys((
    "cancel_reason", "exchange_items", "exchange_new_items", "exchange_payment_method_id", "exchange_price_difference",
    "return_items", "return_payment_method_id"))


def variant(item: str, colour: str, price: float, available: bool = True) -> dict[str, Any]:
    return {"item_id": item, "options": {"colour": colour}, "available": available, "price": price}


def item(item_id: str, product: str, price: float) -> dict[str, Any]:
    return {"name": product, "product_id": product, "item_id": item_id, "price": price, "options": {"colour": "red"}}


def order(name: str, status: str, paid: float, by: str, *items: dict[str, Any]) -> dict[str, Any]:
    return {"order_id": name, "user_id": "ann", "address": HOME, "items": list(items), "status": status,
            "fulfillments": [], "payment_history": [
                {"transaction_type": "payment", "amount": paid, "payment_method_id": by}], **ABSENT}


DATA: dict[str, dict[str, Any]] = {
    "products": {
        "lamp": {"name": "Lamp", "product_id": "lamp", "variants": {
            "l1": variant("l1", "red", 10.5), "l2": variant("l2", "blue", 14.25),
            "l3": variant("l3", "black", 9.0, False)}},
        "chair": {"name": "Chair", "product_id": "chair", "variants": {
            "c1": variant("c1", "red", 100.1), "c2": variant("c2", "blue", 80.0)}},
    },
    "users": {
        "ann": {"user_id": "ann", "name": {"first_name": "Ann", "last_name": "Lee"}, "address": HOME,
                "email": "Ann@x.com", "orders": ["#1", "#2", "#3"], "payment_methods": {
                    "gift": {"source": "gift_card", "id": "gift", "balance": 5.0},
                    "paypal": {"source": "paypal", "id": "paypal"},
                    "card": {"source": "credit_card", "id": "card", "brand": "visa", "last_four": "1"}}},
    },
    "orders": {
        "#1": order("#1", "pending", 121.1, "card", item("l1", "lamp", 10.5), item("l1", "lamp", 10.5),
                    item("c1", "chair", 100.1)),
        "#2": order("#2", "delivered", 110.6, "card", item("l1", "lamp", 10.5), item("c1", "chair", 100.1)),
        "#3": order("#3", "pending", 3.0, "gift", item("l1", "lamp", 3.0)),
    },
}


def desk() -> Retail:
    return Retail(Tables(Delivered(deepcopy(DATA), "hash")))


def changed(of: Retail) -> Any:
    return of.state()["changed"]


def balance(of: Retail) -> float:
    return float(json.loads(of.call("get_user_details", {"user_id": "ann"}))["payment_methods"]["gift"]["balance"])


def test_fifteen_tools_each_with_its_method_and_kind() -> None:
    assert len(TOOLS) == 15 and all(callable(getattr(Retail, name)) for name in TOOLS)
    reads = {name for name, tool in TOOLS.items() if tool.kind == "read"}
    assert reads == {"find_user_id_by_email", "find_user_id_by_name_zip", "get_order_details", "get_product_details",
                     "get_user_details", "list_all_product_types"}
    assert {name for name, tool in TOOLS.items() if tool.kind == "general"} == {"calculate", "transfer_to_human_agents"}


def test_who_somebody_is() -> None:
    mine = desk()
    assert mine.call("find_user_id_by_email", {"email": "ann@X.com"}) == "ann"
    assert mine.call("find_user_id_by_name_zip", {"first_name": "ANN", "last_name": "lee", "zip": "00100"}) == "ann"
    for name, arguments in (("find_user_id_by_email", {"email": "no@x.com"}), ("find_user_id_by_name_zip", {
            "first_name": "Ann", "last_name": "Lee", "zip": "00101"})):
        with pytest.raises(Refused, match="User not found"):
            mine.call(name, arguments)
    assert mine.call("list_all_product_types", {}) == '{"Chair": "chair", "Lamp": "lamp"}'
    assert json.loads(mine.call("get_product_details", {"product_id": "lamp"})) == DATA["products"]["lamp"]
    assert json.loads(mine.call("get_order_details", {"order_id": "#1"})) == DATA["orders"]["#1"]
    assert changed(mine) == {}


def test_a_cancelled_order_is_refunded_and_a_gift_card_at_once() -> None:
    mine = desk()
    gone = json.loads(mine.call("cancel_pending_order", {"order_id": "#3", "reason": "no longer needed"}))
    assert (gone["status"], gone["cancel_reason"], balance(mine)) == ("cancelled", "no longer needed", 8.0)
    assert gone["payment_history"][1] == {"transaction_type": "refund", "amount": 3.0, "payment_method_id": "gift"}
    mine.call("cancel_pending_order", {"order_id": "#1", "reason": "ordered by mistake"})
    assert balance(mine) == 8.0  # paid by card
    for name, reason, words in (("#3", "no longer needed", "Non-pending"), ("#2", "no longer needed", "Non-pending")):
        with pytest.raises(Refused, match=words):
            mine.call("cancel_pending_order", {"order_id": name, "reason": reason})
    with pytest.raises(Refused, match="Invalid reason"):
        desk().call("cancel_pending_order", {"order_id": "#1", "reason": "late"})


def test_changed_items_all_take_price_and_options_of_the_last_as_in_tau2() -> None:
    mine = desk()
    now = json.loads(mine.call("modify_pending_order_items", {
        "order_id": "#1", "item_ids": ["l1", "c1"], "new_item_ids": ["l2", "c2"], "payment_method_id": "gift"}))
    assert [(held["item_id"], held["price"], held["options"]["colour"]) for held in now["items"]] == [
        ("l2", 80.0, "blue"), ("l1", 10.5, "red"), ("c2", 80.0, "blue")]
    # (14.25 - 10.5) + (80 - 100.1) = 3.75 - 20.1 = -16.35: a refund
    assert now["payment_history"][1] == {"transaction_type": "refund", "amount": pytest.approx(16.35),
                                         "payment_method_id": "gift"}
    assert balance(mine) == 21.35 and now["status"] == "pending (item modified)"
    with pytest.raises(Refused, match="Non-pending order cannot be modified"):
        mine.call("modify_pending_order_items", {
            "order_id": "#1", "item_ids": ["l1"], "new_item_ids": ["l2"], "payment_method_id": "card"})


@pytest.mark.parametrize(("change", "words"), [
    ({"order_id": "#9"}, "Order not found"), ({"order_id": "#2"}, "Non-pending"),
    ({"item_ids": ["l1", "l1", "l1"]}, "l1 not found"), ({"new_item_ids": ["l2", "l2"]}, "number of items"),
    ({"new_item_ids": ["l1"]}, "should be different"), ({"new_item_ids": ["c1"]}, "Variant not found"),
    ({"new_item_ids": ["l3"]}, "New item l3 not found or available"), ({"payment_method_id": "x"}, "Payment method"),
    ({"item_ids": ["l1", "l1"], "new_item_ids": ["l2", "l2"], "payment_method_id": "gift"}, "Insufficient gift card"),
])
def test_items_that_cannot_be_changed_change_nothing(change: dict[str, Any], words: str) -> None:
    mine = desk()
    wanted = {"order_id": "#1", "item_ids": ["l1"], "new_item_ids": ["l2"], "payment_method_id": "card"}
    with pytest.raises(Refused, match=words):  # the last: 2 * 3.75 = 7.5 > 5
        mine.call("modify_pending_order_items", {**wanted, **change})
    assert changed(mine) == {}


def test_another_way_to_pay() -> None:
    mine = desk()
    now = json.loads(mine.call("modify_pending_order_payment", {"order_id": "#3", "payment_method_id": "paypal"}))
    assert [(paid["transaction_type"], paid["payment_method_id"]) for paid in now["payment_history"]] == [
        ("payment", "gift"), ("payment", "paypal"), ("refund", "gift")]
    assert balance(mine) == 8.0
    for name, method, words in (("#3", "card", "exactly one payment"), ("#1", "card", "different from the current"),
                                ("#1", "gift", "Insufficient gift card"), ("#2", "gift", "Non-pending")):
        with pytest.raises(Refused, match=words):
            mine.call("modify_pending_order_payment", {"order_id": name, "payment_method_id": method})


def test_addresses() -> None:
    mine, new = desk(), {**HOME, "city": "Oslo"}
    assert json.loads(mine.call("modify_pending_order_address", {"order_id": "#1", **new}))["address"] == new
    assert json.loads(mine.call("modify_user_address", {"user_id": "ann", **new}))["address"] == new
    assert changed(mine)["orders"].keys() == {"#1"}
    with pytest.raises(Refused, match="Non-pending"):
        mine.call("modify_pending_order_address", {"order_id": "#2", **new})


def test_an_exchange_is_asked_for_once() -> None:
    mine = desk()
    wanted = {"order_id": "#2", "item_ids": ["l1", "c1"], "new_item_ids": ["l2", "c2"], "payment_method_id": "card"}
    now = json.loads(mine.call("exchange_delivered_order_items", wanted))
    assert (now["status"], now["exchange_items"], now["exchange_new_items"]) == (
        "exchange requested", ["c1", "l1"], ["c2", "l2"])
    assert now["exchange_price_difference"] == -16.35 and len(now["payment_history"]) == 1
    for name, change, words in (("exchange_delivered_order_items", {}, "Non-delivered"),):
        with pytest.raises(Refused, match=words):
            mine.call(name, {**wanted, **change})
    fresh = desk()
    for change, words in (({"item_ids": ["l9", "c1"]}, "Number of l9 not found"), ({"new_item_ids": ["l2"]}, "number"),
                          ({"new_item_ids": ["l3", "c2"]}, "not found or available")):
        with pytest.raises(Refused, match=words):
            fresh.call("exchange_delivered_order_items", {**wanted, **change})
    dear = {"order_id": "#2", "item_ids": ["l1"], "new_item_ids": ["l2"], "payment_method_id": "gift"}
    assert json.loads(fresh.call("exchange_delivered_order_items", dear))["exchange_price_difference"] == 3.75


def test_a_return_goes_where_it_was_paid_from_or_on_a_gift_card() -> None:
    wanted = {"order_id": "#2", "item_ids": ["l1"], "payment_method_id": "paypal"}
    with pytest.raises(Refused, match="original payment method"):
        desk().call("return_delivered_order_items", wanted)
    for method in ("card", "gift"):
        now = json.loads(desk().call("return_delivered_order_items", {**wanted, "payment_method_id": method}))
        assert (now["status"], now["return_items"], now["return_payment_method_id"]) == (
            "return requested", ["l1"], method)
    with pytest.raises(Refused, match="Some item not found"):
        desk().call("return_delivered_order_items", {**wanted, "payment_method_id": "card", "item_ids": ["l1", "l1"]})
    with pytest.raises(Refused, match="Non-delivered"):
        desk().call("return_delivered_order_items", {**wanted, "order_id": "#1"})
