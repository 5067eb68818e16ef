"""The airline's tools on a database of three flights, with prices worked by hand."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest

from polyturn.envs.dialogue import Refused
from polyturn.envs.tau.airline import TOOLS, Airline
from polyturn.envs.tau.tables import Delivered, Tables


def day(economy: int, seats: int = 3) -> dict[str, Any]:
    return {"status": "available", "available_seats": {"business": 1, "economy": seats, "basic_economy": 0},
            "prices": {"business": 900, "economy": economy, "basic_economy": 50}}


def flight(number: str, route: str, leaves: str, arrives: str, **dates: dict[str, Any]) -> dict[str, Any]:
    return {"origin": route[:3], "destination": route[4:], "flight_number": number,
            "scheduled_departure_time_est": leaves, "scheduled_arrival_time_est": arrives,
            "dates": {f"2024-05-{date[1:]}": known for date, known in dates.items()}}


DATA: dict[str, dict[str, Any]] = {
    "flights": {
        "F1": flight("F1", "SFO-ORD", "06:00:00", "10:00:00", d20=day(100), d21=day(110), d14={"status": "landed"}),
        "F2": flight("F2", "ORD-JFK", "11:00:00", "14:00:00", d20=day(40), d21=day(45)),
        "F3": flight("F3", "SFO-ORD", "22:00:00", "02:00:00+1", d20=day(60, seats=1), d08=day(60)),
        "F4": flight("F4", "ORD-JFK", "03:00:00", "06:00:00", d21=day(70), d09=day(70)),
    },
    "users": {"ann": {
        "user_id": "ann", "reservations": ["R1"], "payment_methods": {
            "card": {"source": "credit_card", "id": "card", "brand": "visa", "last_four": "1"},
            "gift": {"source": "gift_card", "id": "gift", "amount": 500.0},
            "voucher": {"source": "certificate", "id": "voucher", "amount": 250.0},
        },
    }},
    "reservations": {"R1": {
        "reservation_id": "R1", "user_id": "ann", "origin": "SFO", "destination": "JFK", "flight_type": "one_way",
        "cabin": "economy", "flights": [
            {"origin": "SFO", "destination": "ORD", "flight_number": "F1", "date": "2024-05-20", "price": 80},
            {"origin": "ORD", "destination": "JFK", "flight_number": "F2", "date": "2024-05-20", "price": 30}],
        "passengers": [{"first_name": "A", "last_name": "B", "dob": "1990-01-01"}] * 2,
        "payment_history": [{"payment_id": "card", "amount": 220}], "created_at": "2024-05-02T03:10:19",
        "total_baggages": 1, "nonfree_baggages": 0, "insurance": "no", "status": None,
    }},
}
PEOPLE = [{"first_name": "A", "last_name": "B", "dob": "1990-01-01"}, {"first_name": "C", "last_name": "D",
                                                                     "dob": "1991-01-01", "age": 33}]
BOOKING = {
    "user_id": "ann", "origin": "SFO", "destination": "JFK", "flight_type": "one_way", "cabin": "economy",
    "flights": [{"flight_number": "F1", "date": "2024-05-20"}, {"flight_number": "F2", "date": "2024-05-20"}],
    "passengers": PEOPLE, "payment_methods": [{"payment_id": "voucher", "amount": 250},
                                              {"payment_id": "gift", "amount": 140}],
    "total_baggages": 3, "nonfree_baggages": 1, "insurance": "yes",
}
# 2 passengers * (100 + 40) + 2 * 30 insurance + 1 * 50 bag = 390 = 250 + 140


def desk() -> Airline:
    return Airline(Tables(Delivered(deepcopy(DATA), "hash")))


def changed(of: Airline) -> Any:
    return of.state()["changed"]


def test_fourteen_tools_each_with_its_method_and_kind() -> None:
    kinds = {kind: sorted(name for name, tool in TOOLS.items() if tool.kind == kind) for kind in ("write", "general")}
    assert len(TOOLS) == 14 and all(callable(getattr(Airline, name)) for name in TOOLS)
    assert kinds == {"write": ["book_reservation", "cancel_reservation", "send_certificate",
                               "update_reservation_baggages", "update_reservation_flights",
                               "update_reservation_passengers"],
                     "general": ["calculate", "transfer_to_human_agents"]}


def test_a_booking_is_paid_and_takes_its_seats() -> None:
    mine = desk()
    made = json.loads(mine.call("book_reservation", BOOKING))
    assert made["reservation_id"] == "HATHAT" and made["created_at"] == "2024-05-15T15:00:00"
    assert made["flights"] == [
        {"flight_number": "F1", "origin": "SFO", "destination": "ORD", "date": "2024-05-20", "price": 100},
        {"flight_number": "F2", "origin": "ORD", "destination": "JFK", "date": "2024-05-20", "price": 40}]
    assert made["passengers"][1] == {"first_name": "C", "last_name": "D", "dob": "1991-01-01"}  # no other field
    now = changed(mine)
    assert now["users"]["ann"]["payment_methods"].keys() == {"card", "gift"}  # the certificate is used up
    assert now["users"]["ann"]["payment_methods"]["gift"]["amount"] == 360.0  # 500 - 140
    assert now["users"]["ann"]["reservations"] == ["R1", "HATHAT"] and now["reservations"].keys() == {"HATHAT"}
    seats = {number: now["flights"][number]["dates"]["2024-05-20"]["available_seats"] for number in ("F1", "F2")}
    assert {number: left["economy"] for number, left in seats.items()} == {"F1": 1, "F2": 1}  # 3 - 2
    card = {**BOOKING, "passengers": PEOPLE[:1], "payment_methods": [{"payment_id": "card", "amount": 220}]}
    ids = [json.loads(mine.call("book_reservation", {**card, "flights": []} | {"payment_methods": [
        {"payment_id": "card", "amount": 80}]}))["reservation_id"] for _ in range(2)]  # 30 insurance + 50 bag
    assert ids == ["HATHAU", "HATHAV"]
    with pytest.raises(Refused, match="Too many reservations"):
        mine.call("book_reservation", card)


@pytest.mark.parametrize(("change", "words"), [
    ({"user_id": "bob"}, "User bob not found"),
    ({"payment_methods": [{"payment_id": "card", "amount": 389}]}, "total price is 390, but paid 389"),
    ({"payment_methods": [{"payment_id": "cash", "amount": 390}]}, "Payment method cash not found"),
    ({"payment_methods": [{"payment_id": "voucher", "amount": 390}]}, "Not enough balance in payment method voucher"),
    ({"flights": [{"flight_number": "F9", "date": "2024-05-20"}]}, "Flight F9 not found"),
    ({"flights": [{"flight_number": "F1", "date": "2024-06-20"}]}, "Flight F1 not found on date 2024-06-20"),
    ({"flights": [{"flight_number": "F1", "date": "2024-05-14"}]}, "Flight F1 not available on date 2024-05-14"),
    ({"flights": [{"flight_number": "F3", "date": "2024-05-20"}]}, "Not enough seats on flight F3"),
    ({"cabin": "first"}, "'first' is not one of"),
    ({"payment_methods": [{"payment_id": "card", "amount": "390"}]}, "'390' is not of type 'integer'"),
])
def test_a_booking_that_is_refused_changes_nothing(change: dict[str, Any], words: str) -> None:
    mine = desk()
    with pytest.raises(Refused, match=words):
        mine.call("book_reservation", {**BOOKING, **change})
    assert changed(mine) == {}


def test_a_cancelled_reservation_is_paid_back_and_keeps_its_seats() -> None:
    mine = desk()
    gone = json.loads(mine.call("cancel_reservation", {"reservation_id": "R1"}))
    assert gone["status"] == "cancelled"
    assert gone["payment_history"] == [{"payment_id": "card", "amount": 220}, {"payment_id": "card", "amount": -220}]
    assert changed(mine).keys() == {"reservations"}


def test_flights_that_stay_keep_their_price_unless_the_cabin_changes() -> None:
    moved = {"reservation_id": "R1", "cabin": "economy", "payment_id": "gift", "flights": [
        {"flight_number": "F1", "date": "2024-05-20"}, {"flight_number": "F2", "date": "2024-05-21"}]}
    mine = desk()
    now = json.loads(mine.call("update_reservation_flights", moved))
    assert [leg["price"] for leg in now["flights"]] == [80, 45]
    # 2 * (80 + 45) - 2 * (80 + 30) = 30
    assert now["payment_history"][1:] == [{"payment_id": "gift", "amount": 30}]
    assert changed(mine)["users"]["ann"]["payment_methods"]["gift"]["amount"] == 470.0
    assert "flights" not in changed(mine)  # no seat is taken
    with pytest.raises(Refused, match="Not enough seats on flight F1"):
        mine.call("update_reservation_flights", {**moved, "cabin": "business"})
    cheap = {**moved, "flights": [{"flight_number": "F2", "date": "2024-05-21"}]}
    back = json.loads(mine.call("update_reservation_flights", cheap))
    assert back["payment_history"][2:] == [{"payment_id": "gift", "amount": -160}]  # 2 * 45 - 2 * (80 + 45)
    assert changed(mine)["users"]["ann"]["payment_methods"]["gift"]["amount"] == 630.0


@pytest.mark.parametrize(("payment", "words"), [
    ("voucher", "Certificate cannot be used"), ("cash", "Payment method not found"), ("gift", "balance is not enough"),
])
def test_how_a_change_may_be_paid(payment: str, words: str) -> None:
    mine = desk()
    bags = {"reservation_id": "R1", "total_baggages": 20, "nonfree_baggages": 11, "payment_id": payment}
    with pytest.raises(Refused, match=words):  # 11 * 50 = 550
        mine.call("update_reservation_baggages", bags)
    assert changed(mine) == {}


def test_bags_are_charged_when_they_become_more_and_never_paid_back() -> None:
    mine = desk()
    bags = {"reservation_id": "R1", "total_baggages": 4, "nonfree_baggages": 2, "payment_id": "gift"}
    now = json.loads(mine.call("update_reservation_baggages", bags))
    assert (now["total_baggages"], now["nonfree_baggages"]) == (4, 2)
    assert now["payment_history"][1:] == [{"payment_id": "gift", "amount": 100}]
    less = json.loads(mine.call("update_reservation_baggages", {**bags, "total_baggages": 1, "nonfree_baggages": 0}))
    assert less["nonfree_baggages"] == 0 and len(less["payment_history"]) == 2


def test_passengers_change_and_their_number_does_not() -> None:
    mine = desk()
    now = json.loads(mine.call("update_reservation_passengers", {"reservation_id": "R1", "passengers": PEOPLE}))
    assert [person["first_name"] for person in now["passengers"]] == ["A", "C"]
    with pytest.raises(Refused, match="Number of passengers does not match"):
        mine.call("update_reservation_passengers", {"reservation_id": "R1", "passengers": PEOPLE[:1]})


def test_three_certificates_and_no_more() -> None:
    mine = desk()
    said = [mine.call("send_certificate", {"user_id": "ann", "amount": 50}) for _ in range(3)]
    assert said[0] == "Certificate certificate_3221322 added to user ann with amount 50."
    sent = changed(mine)["users"]["ann"]["payment_methods"]
    assert sent["certificate_3221324"] == {"source": "certificate", "id": "certificate_3221324", "amount": 50.0}
    with pytest.raises(Refused, match="Too many certificates"):
        mine.call("send_certificate", {"user_id": "ann", "amount": 50})


def test_searching() -> None:
    mine = desk()
    direct = json.loads(mine.call("search_direct_flight", {"origin": "SFO", "destination": "ORD",
                                                           "date": "2024-05-20"}))
    assert [found["flight_number"] for found in direct] == ["F1", "F3"] and direct[0]["date"] is None
    assert direct[0]["prices"]["economy"] == 100 and direct[1]["available_seats"]["economy"] == 1
    stops = json.loads(mine.call("search_onestop_flight", {"origin": "SFO", "destination": "JFK",
                                                           "date": "2024-05-20"}))
    # F1 arrives 10:00, before F2 leaves; F3 arrives 02:00 the next day, before F2 and F4 of that day leave
    assert [[(leg["flight_number"], leg["date"]) for leg in pair] for pair in stops] == [
        [("F1", "2024-05-20"), ("F2", "2024-05-20")], [("F3", "2024-05-20"), ("F2", "2024-05-21")],
        [("F3", "2024-05-20"), ("F4", "2024-05-21")]]
    early = {"origin": "SFO", "destination": "JFK", "date": "2024-05-08"}
    assert mine.call("search_onestop_flight", early) == "[]"  # tau2 looks for 2024-05-9, which no date is
    assert changed(mine) == {}


def test_the_other_readings() -> None:
    mine = desk()
    assert mine.call("get_flight_status", {"flight_number": "F1", "date": "2024-05-14"}) == "landed"
    assert json.loads(mine.call("get_user_details", {"user_id": "ann"})) == DATA["users"]["ann"]
    assert json.loads(mine.call("get_reservation_details", {"reservation_id": "R1"})) == DATA["reservations"]["R1"]
    airports = json.loads(mine.call("list_all_airports", {}))
    assert len(airports) == 20 and airports[0] == {"iata": "SFO", "city": "San Francisco"}
    assert mine.call("calculate", {"expression": "2 * 3.5"}) == "7.0"
    assert mine.call("transfer_to_human_agents", {"summary": "s"}) == "Transfer successful"
    with pytest.raises(Refused, match="Reservation R9 not found"):
        mine.call("get_reservation_details", {"reservation_id": "R9"})
    assert changed(mine) == {}
