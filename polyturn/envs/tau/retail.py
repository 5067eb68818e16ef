"""The tools of tau2's shop over one episode's database. They allow what the policy forbids: the agent must not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from polyturn.envs.dialogue import Refused
from polyturn.envs.tau import toolkit
from polyturn.envs.tau.tables import Record, Tables
from polyturn.envs.tau.toolkit import TEXT, TEXTS, tool
from polyturn.types import Tool

_ORDER = (TEXT, "the order's id, with its '#', such as '#W0000000'")
_USER = (TEXT, "the user's id, such as 'sara_doe_496'")
_ITEMS = (TEXTS, "item ids of the order, each such as '1008292230'; the same id may stand twice")
_NEW_ITEMS = (TEXTS, "the item ids that take their places, in the same order, each of the same product")
_PAYMENT = (TEXT, "a payment method of the user's profile, such as 'gift_card_0000000' or 'credit_card_0000000'")
_ADDRESS = {
    "address1": (TEXT, "the first line, such as '123 Main St'"), "address2": (TEXT, "the second line, or ''"),
    "city": (TEXT, "such as 'San Francisco'"), "state": (TEXT, "such as 'CA'"), "country": (TEXT, "such as 'USA'"),
    "zip": (TEXT, "such as '12345'"),
}
_AFTER = "Explain the details and get the user's explicit yes first."

TOOLS: Final[Mapping[str, Tool]] = {made.name: made for made in (
    toolkit.CALCULATE,
    tool("cancel_pending_order", "write", "Cancels a pending order. The refund is on a gift card at once, elsewhere in "
         f"5 to 7 business days. {_AFTER}", order_id=_ORDER,
         reason=(TEXT, "'no longer needed' or 'ordered by mistake'")),
    tool("exchange_delivered_order_items", "write", "Exchanges items of a delivered order for others of the same "
         f"product; an order can be exchanged or returned once. {_AFTER}", order_id=_ORDER, item_ids=_ITEMS,
         new_item_ids=_NEW_ITEMS, payment_method_id=_PAYMENT),
    tool("find_user_id_by_name_zip", "read", "A user's id by name and zip code, where the email is not known.",
         first_name=(TEXT, "such as 'John'"), last_name=(TEXT, "such as 'Doe'"), zip=(TEXT, "such as '12345'")),
    tool("find_user_id_by_email", "read", "A user's id by email.", email=(TEXT, "such as 'something@example.com'")),
    tool("get_order_details", "read", "All that is known of an order.", order_id=_ORDER),
    tool("get_product_details", "read", "All items of a product, with options, prices and whether they are in stock.",
         product_id=(TEXT, "the product's id, which is no item id, such as '6086499569'")),
    tool("get_user_details", "read", "All that is known of a user, with the ids of the orders.", user_id=_USER),
    tool("list_all_product_types", "read", "The names and ids of all products."),
    tool("modify_pending_order_address", "write", f"Changes where a pending order goes. {_AFTER}", order_id=_ORDER,
         **_ADDRESS),
    tool("modify_pending_order_items", "write", "Changes items of a pending order to others of the same product, once "
         f"for an order. {_AFTER}", order_id=_ORDER, item_ids=_ITEMS, new_item_ids=_NEW_ITEMS,
         payment_method_id=_PAYMENT),
    tool("modify_pending_order_payment", "write", f"Changes how a pending order is paid. {_AFTER}", order_id=_ORDER,
         payment_method_id=_PAYMENT),
    tool("modify_user_address", "write", f"Changes a user's default address. {_AFTER}", user_id=_USER, **_ADDRESS),
    tool("return_delivered_order_items", "write", "Asks for the return of items of a delivered order; the user hears "
         f"by email how. {_AFTER}", order_id=_ORDER, item_ids=_ITEMS,
         payment_method_id=(TEXT, "where the refund goes: the original payment method or a gift card")),
    toolkit.TRANSFER,
)}


class Retail:
    """A :class:`polyturn.envs.dialogue.Database` of products, users and orders."""

    tools = TOOLS
    calculate = staticmethod(toolkit.calculate)
    transfer_to_human_agents = staticmethod(toolkit.transfer_to_human_agents)

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def state(self) -> Mapping[str, Any]:
        """What differs from the delivered database."""
        return self._tables.state()

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """What a tool answers. Raises: Refused."""
        return toolkit.answer(TOOLS, self, name, arguments)

    # ------------------------------------------------------------ reading

    def find_user_id_by_name_zip(self, first_name: str, last_name: str, zip: str) -> str:
        """The first user of that name, in any case, and zip code."""
        wanted = (first_name.lower(), last_name.lower(), zip)
        for key, user in self._tables.rows("users"):
            name = user["name"]
            if (name["first_name"].lower(), name["last_name"].lower(), user["address"]["zip"]) == wanted:
                return key
        raise Refused("User not found")

    def find_user_id_by_email(self, email: str) -> str:
        """The first user of that email, in any case."""
        for key, user in self._tables.rows("users"):
            if user["email"].lower() == email.lower():
                return key
        raise Refused("User not found")

    def get_order_details(self, order_id: str) -> Record:
        """An order."""
        return self._found("orders", "Order", order_id)

    def get_product_details(self, product_id: str) -> Record:
        """A product with its variants."""
        return self._found("products", "Product", product_id)

    def get_user_details(self, user_id: str) -> Record:
        """A user."""
        return self._found("users", "User", user_id)

    def list_all_product_types(self) -> str:
        """Name and id of each product, by name."""
        ids = {product["name"]: product["product_id"] for _, product in self._tables.rows("products")}
        return json.dumps(ids, sort_keys=True)

    # ------------------------------------------------------------ pending orders

    def cancel_pending_order(self, order_id: str, reason: str) -> Record:
        """The order; what was paid by gift card is on it again."""
        order = self.get_order_details(order_id)
        if order["status"] != "pending":
            raise Refused("Non-pending order cannot be cancelled")
        if reason not in ("no longer needed", "ordered by mistake"):
            raise Refused("Invalid reason")
        refunds = []
        for paid in order["payment_history"]:
            _give(self._method(order, paid["payment_method_id"]), paid["amount"])
            refunds.append(_payment("refund", paid["amount"], paid["payment_method_id"]))
        order["status"], order["cancel_reason"] = "cancelled", reason
        order["payment_history"] += refunds
        return order

    def modify_pending_order_address(self, order_id: str, **address: str) -> Record:
        """The order with another address."""
        order = self._pending(order_id)
        order["address"] = _address(address)
        return order

    def modify_pending_order_items(
        self, order_id: str, item_ids: Sequence[str], new_item_ids: Sequence[str], payment_method_id: str
    ) -> Record:
        """The order with other items. As in tau2, every changed item takes price and options of the last new one."""
        order = self.get_order_details(order_id)
        if order["status"] != "pending":
            raise Refused("Non-pending order cannot be modified")
        _check_held(order, item_ids, "{} not found")
        if len(item_ids) != len(new_item_ids):
            raise Refused("The number of items to be exchanged should match")
        if any(old == new for old, new in zip(item_ids, new_item_ids, strict=True)):
            raise Refused("The new item id should be different from the old item id")
        more, last = self._difference(order, item_ids, new_item_ids)
        method = self._method(order, payment_method_id)
        if method["source"] == "gift_card" and method["balance"] < more:
            raise Refused("Insufficient gift card balance to pay for the new item")
        order["payment_history"].append(_payment("payment" if more > 0 else "refund", abs(more), payment_method_id))
        _give(method, -more)
        for old, new in zip(item_ids, new_item_ids, strict=True):
            item = _item(order, old)
            item["item_id"], item["price"], item["options"] = new, last["price"], dict(last["options"])
        order["status"] = "pending (item modified)"
        return order

    def modify_pending_order_payment(self, order_id: str, payment_method_id: str) -> Record:
        """The order, paid by another method and refunded to the one before."""
        order = self._pending(order_id)
        method = self._method(order, payment_method_id)
        paid = order["payment_history"]
        if len(paid) != 1 or paid[0]["transaction_type"] != "payment":
            raise Refused("There should be exactly one payment for a pending order")
        before, amount = paid[0]["payment_method_id"], paid[0]["amount"]
        if before == payment_method_id:
            raise Refused("The new payment method should be different from the current one")
        if method["source"] == "gift_card" and method["balance"] < amount:
            raise Refused("Insufficient gift card balance to pay for the order")
        paid += [_payment("payment", amount, payment_method_id), _payment("refund", amount, before)]
        _give(method, -amount)
        _give(self._method(order, before), amount)
        return order

    # ------------------------------------------------------------ delivered orders and users

    def exchange_delivered_order_items(
        self, order_id: str, item_ids: Sequence[str], new_item_ids: Sequence[str], payment_method_id: str
    ) -> Record:
        """The order with its exchange asked for; nothing is paid yet."""
        order = self.get_order_details(order_id)
        if order["status"] != "delivered":
            raise Refused("Non-delivered order cannot be exchanged")
        _check_held(order, item_ids, "Number of {} not found.")
        if len(item_ids) != len(new_item_ids):
            raise Refused("The number of items to be exchanged should match.")
        more = round(self._difference(order, item_ids, new_item_ids)[0], 2)
        method = self._method(order, payment_method_id)
        if method["source"] == "gift_card" and method["balance"] < more:
            raise Refused("Insufficient gift card balance to pay for the price difference")
        order |= {
            "status": "exchange requested", "exchange_items": sorted(item_ids),
            "exchange_new_items": sorted(new_item_ids), "exchange_payment_method_id": payment_method_id,
            "exchange_price_difference": more,
        }
        return order

    def return_delivered_order_items(self, order_id: str, item_ids: Sequence[str], payment_method_id: str) -> Record:
        """The order with its return asked for."""
        order = self.get_order_details(order_id)
        if order["status"] != "delivered":
            raise Refused("Non-delivered order cannot be returned")
        method = self._method(order, payment_method_id)
        if method["source"] != "gift_card" and payment_method_id != order["payment_history"][0]["payment_method_id"]:
            raise Refused("Payment method should be the original payment method")
        _check_held(order, item_ids, "Some item not found")
        order |= {"status": "return requested", "return_items": sorted(item_ids),
                  "return_payment_method_id": payment_method_id}
        return order

    def modify_user_address(self, user_id: str, **address: str) -> Record:
        """The user with another address."""
        user = self.get_user_details(user_id)
        user["address"] = _address(address)
        return user

    # ------------------------------------------------------------ parts

    def _found(self, table: str, what: str, key: str) -> Record:
        record = self._tables.find(table, key)
        if record is None:
            raise Refused(f"{what} not found")
        return record

    def _pending(self, order_id: str) -> Record:
        order = self.get_order_details(order_id)
        if "pending" not in order["status"]:
            raise Refused("Non-pending order cannot be modified")
        return order

    def _method(self, order: Record, payment_method_id: str) -> Record:
        methods: dict[str, Record] = self.get_user_details(order["user_id"])["payment_methods"]
        if payment_method_id not in methods:
            raise Refused("Payment method not found")
        return methods[payment_method_id]

    def _difference(self, order: Record, old: Sequence[str], new: Sequence[str]) -> tuple[float, Record]:
        """What the new items cost more than the old ones, and the last new one (empty for none)."""
        more, variant = 0.0, {}
        for item_id, new_id in zip(old, new, strict=True):
            item = _item(order, item_id)
            variants = self.get_product_details(item["product_id"])["variants"]
            if new_id not in variants:
                raise Refused("Variant not found")
            variant = variants[new_id]
            if not variant["available"]:
                raise Refused(f"New item {new_id} not found or available")
            more += variant["price"] - item["price"]
        return more, variant


def _check_held(order: Record, item_ids: Sequence[str], words: str) -> None:
    """Raises Refused where an item is named more often than the order holds it."""
    held = [item["item_id"] for item in order["items"]]
    for item_id in item_ids:
        if item_ids.count(item_id) > held.count(item_id):
            raise Refused(words.format(item_id))


def _item(order: Record, item_id: str) -> Record:
    """The first item of that id."""
    for item in order["items"]:
        if item["item_id"] == item_id:
            found: Record = item
            return found
    raise Refused(f"Item {item_id} not found")


def _give(method: Record, amount: float) -> None:
    """Puts an amount on a gift card; other methods keep no balance."""
    if method["source"] == "gift_card":
        method["balance"] = round(method["balance"] + amount, 2)


def _payment(kind: str, amount: float, payment_method_id: str) -> Record:
    return {"transaction_type": kind, "amount": amount, "payment_method_id": payment_method_id}


def _address(given: Mapping[str, str]) -> Record:
    return {part: given[part] for part in ("address1", "address2", "city", "country", "state", "zip")}
