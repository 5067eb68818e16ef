"""The tools of tau2's airline over one episode's database. They allow what the policy forbids: the agent must not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from polyturn.envs.dialogue import Refused
from polyturn.envs.tau import toolkit
from polyturn.envs.tau.tables import Record, Tables
from polyturn.envs.tau.toolkit import TEXT, WHOLE, objects, one_of, tool
from polyturn.types import Tool

NOW: Final = "2024-05-15T15:00:00"
NEW_RESERVATIONS: Final = ("HATHAT", "HATHAU", "HATHAV")
"""The ids of what is booked, in this order; a fourth booking is refused."""
NEW_CERTIFICATES: Final = ("certificate_3221322", "certificate_3221323", "certificate_3221324")
AIRPORTS: Final = {
    "SFO": "San Francisco", "JFK": "New York", "LAX": "Los Angeles", "ORD": "Chicago", "DFW": "Dallas",
    "DEN": "Denver", "SEA": "Seattle", "ATL": "Atlanta", "MIA": "Miami", "BOS": "Boston", "PHX": "Phoenix",
    "IAH": "Houston", "LAS": "Las Vegas", "MCO": "Orlando", "EWR": "Newark", "CLT": "Charlotte",
    "MSP": "Minneapolis", "DTW": "Detroit", "PHL": "Philadelphia", "LGA": "LaGuardia",
}
BAG_PRICE, INSURANCE_PRICE = 50, 30

_USER = (TEXT, "the user's id, such as 'sara_doe_496'")
_RESERVATION = (TEXT, "the reservation's id, such as 'ZFA04Y'")
_CABIN = (one_of("business", "economy", "basic_economy"), "the cabin class of the whole reservation")
_ORIGIN = (TEXT, "the airport of departure, such as 'SFO'")
_DESTINATION = (TEXT, "the airport of arrival, such as 'JFK'")
_DATE = (TEXT, "as YYYY-MM-DD, such as '2024-05-01'")
_FLIGHTS = objects(flight_number=TEXT, date=TEXT)
_PASSENGERS = (objects(first_name=TEXT, last_name=TEXT, dob=TEXT), "each with first_name, last_name, and dob as "
               "YYYY-MM-DD")
_PAYMENT = (TEXT, "a payment method of the user's profile, such as 'credit_card_7815826' or 'gift_card_7815826'")
_TOTAL_BAGS = (WHOLE, "the number of checked bags in all")
_PAID_BAGS = (WHOLE, "the number of checked bags that are not free")

TOOLS: Final[Mapping[str, Tool]] = {made.name: made for made in (
    tool("book_reservation", "write", "Books a reservation. The payments must add up to the whole price.",
         user_id=_USER, origin=_ORIGIN, destination=_DESTINATION,
         flight_type=(one_of("round_trip", "one_way"), "the kind of trip"), cabin=_CABIN,
         flights=(_FLIGHTS, "each flight with its flight_number and date"), passengers=_PASSENGERS,
         payment_methods=(objects(payment_id=TEXT, amount=WHOLE), "each with payment_id and amount in dollars"),
         total_baggages=_TOTAL_BAGS, nonfree_baggages=_PAID_BAGS,
         insurance=(one_of("yes", "no"), "whether travel insurance is bought")),
    toolkit.CALCULATE,
    tool("cancel_reservation", "write", "Cancels a whole reservation and refunds it.", reservation_id=_RESERVATION),
    tool("get_reservation_details", "read", "All that is known of a reservation.", reservation_id=_RESERVATION),
    tool("get_user_details", "read", "All that is known of a user, with the ids of the reservations.", user_id=_USER),
    tool("list_all_airports", "read", "All airports with their cities."),
    tool("search_direct_flight", "read", "The direct flights between two airports that can be booked on a date.",
         origin=_ORIGIN, destination=_DESTINATION, date=_DATE),
    tool("search_onestop_flight", "read", "The pairs of flights with one stop that can be booked on a date.",
         origin=_ORIGIN, destination=_DESTINATION, date=_DATE),
    tool("send_certificate", "write", "Sends a user a certificate. Be careful!", user_id=_USER,
         amount=(WHOLE, "its value in dollars")),
    toolkit.TRANSFER,
    tool("update_reservation_baggages", "write", "Changes the checked bags of a reservation; more bags are charged.",
         reservation_id=_RESERVATION, total_baggages=_TOTAL_BAGS, nonfree_baggages=_PAID_BAGS, payment_id=_PAYMENT),
    tool("update_reservation_flights", "write", "Changes flights or cabin of a reservation; the difference in price is "
         "charged or refunded.", reservation_id=_RESERVATION, cabin=_CABIN,
         flights=(_FLIGHTS, "ALL flights of the reservation afterwards, also those that stay, each with flight_number "
                  "and date"), payment_id=_PAYMENT),
    tool("update_reservation_passengers", "write", "Changes the passengers of a reservation, not their number.",
         reservation_id=_RESERVATION, passengers=_PASSENGERS),
    tool("get_flight_status", "read", "The status of a flight on a date.",
         flight_number=(TEXT, "such as 'HAT001'"), date=_DATE),
)}


class Airline:
    """A :class:`polyturn.envs.dialogue.Database` of flights, users and reservations."""

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

    def get_reservation_details(self, reservation_id: str) -> Record:
        """A reservation."""
        return self._found("reservations", "Reservation", reservation_id)

    def get_user_details(self, user_id: str) -> Record:
        """A user."""
        return self._found("users", "User", user_id)

    def list_all_airports(self) -> list[Record]:
        """Code and city of each airport."""
        return [{"iata": code, "city": city} for code, city in AIRPORTS.items()]

    def get_flight_status(self, flight_number: str, date: str) -> str:
        """The status on a date."""
        return str(self._day(flight_number, date)[1]["status"])

    def search_direct_flight(self, origin: str, destination: str, date: str) -> list[Record]:
        """The flights that can be booked, with seats and prices by cabin."""
        return list(self._bookable(date, origin, destination))

    def search_onestop_flight(self, origin: str, destination: str, date: str) -> list[list[Record]]:
        """Pairs of flights; the second leaves after the first has arrived, as the texts of the times compare, on the
        next day where the first arrives then (whose number tau2 writes without a leading zero, so that none is found
        after a first flight on the 1st to the 8th that arrives the next day)."""
        pairs = []
        for first in self._bookable(date, origin, None):
            arrival = first["scheduled_arrival_time_est"]
            then = f"2024-05-{int(date[-2:]) + 1}" if "+1" in arrival else date
            pairs += [[{**first, "date": date}, {**second, "date": then}]
                      for second in self._bookable(then, first["destination"], destination, arrival)]
        return pairs

    def _bookable(
        self, date: str, origin: str | None, destination: str | None, leave_after: str = ""
    ) -> Iterator[Record]:
        for number, flight in self._tables.rows("flights"):
            day = flight["dates"].get(date)
            if (
                day is not None and day["status"] == "available" and origin in (None, flight["origin"])
                and destination in (None, flight["destination"])
                and flight["scheduled_departure_time_est"] >= leave_after
            ):
                yield {
                    "flight_number": number, "origin": flight["origin"], "destination": flight["destination"],
                    "status": "available", "scheduled_departure_time_est": flight["scheduled_departure_time_est"],
                    "scheduled_arrival_time_est": flight["scheduled_arrival_time_est"], "date": None,
                    "available_seats": day["available_seats"], "prices": day["prices"],
                }

    # ------------------------------------------------------------ booking

    def book_reservation(
        self, *, user_id: str, origin: str, destination: str, flight_type: str, cabin: str,
        flights: Sequence[Record], passengers: Sequence[Record], payment_methods: Sequence[Record],
        total_baggages: int, nonfree_baggages: int, insurance: str,
    ) -> Record:
        """The new reservation, paid and its seats taken."""
        user = self.get_user_details(user_id)
        name = next((id for id in NEW_RESERVATIONS if self._tables.find("reservations", id) is None), None)
        if name is None:
            raise Refused("Too many reservations")
        days = [self._day_with_seats(flight, cabin, len(passengers)) for flight in flights]
        legs = [_leg(flight, wanted["date"], day["prices"][cabin])
                for wanted, (flight, day) in zip(flights, days, strict=True)]
        price = len(passengers) * (_fare(legs) + (INSURANCE_PRICE if insurance == "yes" else 0))
        payments = [{"payment_id": paid["payment_id"], "amount": int(paid["amount"])} for paid in payment_methods]
        _pay(user, payments, price + BAG_PRICE * int(nonfree_baggages))
        for _, day in days:
            day["available_seats"][cabin] -= len(passengers)
        reservation: Record = {
            "reservation_id": name, "user_id": user_id, "origin": origin, "destination": destination,
            "flight_type": flight_type, "cabin": cabin, "flights": legs, "passengers": _people(passengers),
            "payment_history": payments, "created_at": NOW, "total_baggages": int(total_baggages),
            "nonfree_baggages": int(nonfree_baggages), "insurance": insurance, "status": None,
        }
        self._tables.add("reservations", name, reservation)
        user["reservations"].append(name)
        return reservation

    def cancel_reservation(self, reservation_id: str) -> Record:
        """The reservation, every payment of it paid back; its seats stay taken."""
        reservation = self.get_reservation_details(reservation_id)
        reservation["payment_history"] += [
            {"payment_id": paid["payment_id"], "amount": -paid["amount"]} for paid in reservation["payment_history"]
        ]
        reservation["status"] = "cancelled"
        return reservation

    def send_certificate(self, user_id: str, amount: int) -> str:
        """What was sent."""
        methods = self.get_user_details(user_id)["payment_methods"]
        name = next((id for id in NEW_CERTIFICATES if id not in methods), None)
        if name is None:
            raise Refused("Too many certificates")
        methods[name] = {"source": "certificate", "id": name, "amount": float(amount)}
        return f"Certificate {name} added to user {user_id} with amount {amount}."

    # ------------------------------------------------------------ changing

    def update_reservation_baggages(
        self, reservation_id: str, total_baggages: int, nonfree_baggages: int, payment_id: str
    ) -> Record:
        """The reservation; bags more than before that are not free are paid for."""
        reservation = self.get_reservation_details(reservation_id)
        more = max(0, int(nonfree_baggages) - reservation["nonfree_baggages"])
        self._charge(reservation, payment_id, BAG_PRICE * more)
        reservation["total_baggages"], reservation["nonfree_baggages"] = int(total_baggages), int(nonfree_baggages)
        return reservation

    def update_reservation_flights(
        self, reservation_id: str, cabin: str, flights: Sequence[Record], payment_id: str
    ) -> Record:
        """The reservation; a flight that stays in its cabin keeps its price. No seat is taken or given back."""
        reservation = self.get_reservation_details(reservation_id)
        people = len(reservation["passengers"])
        legs = []
        for wanted in flights:
            kept = next((leg for leg in reservation["flights"] if cabin == reservation["cabin"] and
                         (leg["flight_number"], leg["date"]) == (wanted["flight_number"], wanted["date"])), None)
            if kept is None:
                flight, day = self._day_with_seats(wanted, cabin, people)
                kept = _leg(flight, wanted["date"], day["prices"][cabin])
            legs.append(kept)
        self._charge(reservation, payment_id, people * (_fare(legs) - _fare(reservation["flights"])))
        reservation["flights"], reservation["cabin"] = legs, cabin
        return reservation

    def update_reservation_passengers(self, reservation_id: str, passengers: Sequence[Record]) -> Record:
        """The reservation with other passengers."""
        reservation = self.get_reservation_details(reservation_id)
        if len(passengers) != len(reservation["passengers"]):
            raise Refused("Number of passengers does not match")
        reservation["passengers"] = _people(passengers)
        return reservation

    # ------------------------------------------------------------ parts

    def _found(self, table: str, what: str, key: str) -> Record:
        record = self._tables.find(table, key)
        if record is None:
            raise Refused(f"{what} {key} not found")
        return record

    def _day(self, flight_number: str, date: str) -> tuple[Record, Record]:
        """A flight and what is known of it on a date."""
        flight = self._found("flights", "Flight", flight_number)
        if date not in flight["dates"]:
            raise Refused(f"Flight {flight_number} not found on date {date}")
        return flight, flight["dates"][date]

    def _day_with_seats(self, wanted: Record, cabin: str, people: int) -> tuple[Record, Record]:
        flight, day = self._day(wanted["flight_number"], wanted["date"])
        if day["status"] != "available":
            raise Refused(f"Flight {wanted['flight_number']} not available on date {wanted['date']}")
        if day["available_seats"][cabin] < people:
            raise Refused(f"Not enough seats on flight {wanted['flight_number']}")
        return flight, day

    def _charge(self, reservation: Record, payment_id: str, price: int) -> None:
        """Takes (or, below zero, gives back) the price of a change, and notes it unless it is nothing."""
        methods = self.get_user_details(reservation["user_id"])["payment_methods"]
        if payment_id not in methods:
            raise Refused("Payment method not found")
        method = methods[payment_id]
        if method["source"] == "certificate":
            raise Refused("Certificate cannot be used to update reservation")
        if method["source"] == "gift_card":
            if method["amount"] < price:
                raise Refused("Gift card balance is not enough")
            method["amount"] -= price
        if price != 0:
            reservation["payment_history"].append({"payment_id": payment_id, "amount": price})


def _pay(user: Record, payments: Sequence[Record], price: int) -> None:
    """Takes the payments of a booking; a certificate is used up, whatever was left on it."""
    methods = user["payment_methods"]
    for paid in payments:
        method = methods.get(paid["payment_id"])
        if method is None:
            raise Refused(f"Payment method {paid['payment_id']} not found")
        if method["source"] in ("gift_card", "certificate") and method["amount"] < paid["amount"]:
            raise Refused(f"Not enough balance in payment method {paid['payment_id']}")
    total = sum(paid["amount"] for paid in payments)
    if total != price:
        raise Refused(f"Payment amount does not add up, total price is {price}, but paid {total}")
    for paid in payments:
        method = methods.get(paid["payment_id"])
        if method is None:
            raise Refused(f"Payment method {paid['payment_id']} not found")
        if method["source"] == "gift_card":
            method["amount"] -= paid["amount"]
        elif method["source"] == "certificate":
            del methods[paid["payment_id"]]


def _leg(flight: Record, date: str, price: int) -> Record:
    return {"flight_number": flight["flight_number"], "origin": flight["origin"],
            "destination": flight["destination"], "date": date, "price": price}


def _fare(legs: Sequence[Record]) -> int:
    return sum(leg["price"] for leg in legs)


def _people(passengers: Sequence[Record]) -> list[Record]:
    return [{field: person[field] for field in ("first_name", "last_name", "dob")} for person in passengers]
