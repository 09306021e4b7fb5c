"""What the three views say of quiet, of trouble and of attack; and what they never say."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from polder.dashboard.operator import Operator, whole_ring
from polder.dashboard.owner import Owner
from polder.dashboard.user import User
from polder.dashboard.values import Level, Round, Sample, View
from tests.dashboard import looks


def tile(view: View, which: str) -> tuple[str, Level]:
    return next((t.value, t.level) for t in view.tiles if t.id == which)


def test_a_quiet_overlay() -> None:
    model = Operator()
    for second in range(5):
        model.take(Round(float(second), looks.ring("n1", "n2", "n3", at=float(second))))
    view = model.view()
    assert view.level is Level.GOOD and not view.signs and view.headline.startswith("Quiet")
    assert tile(view, "nodes") == ("3 / 3", Level.GOOD) and tile(view, "ring") == ("whole", Level.GOOD)
    assert tile(view, "tunnels")[0] == "30" and len(view.tables[0].rows) == 3
    assert "drill" in view.next


def test_a_dead_node_a_broken_ring_and_an_absent_authority_are_told_the_worst_first() -> None:
    model = Operator()
    parts = looks.ring("n1", "n2", "n3")
    model.take(Round(1.0, parts | {"node/n2": "did not answer", "authority": "nothing answers"}))
    view = model.view()
    assert view.level is Level.WARN and "n2" in view.headline
    assert tile(view, "nodes") == ("2 / 3", Level.BAD) and tile(view, "ring")[0] == "broken"
    assert any("authority" in sign.text for sign in view.signs) and all(sign.advice for sign in view.signs)
    assert [row[1].text for row in view.tables[0].rows] == ["in the ring", "silent", "in the ring"]


def test_a_flood_at_the_door_is_a_sign_of_attack() -> None:
    model = Operator()
    for second in range(8):
        counters = {"tunnels": 10.0 * second, "handshakes_failed": 40.0 * second, "connections_refused": 900.0 * second}
        model.take(Round(float(second), looks.ring("n1", "n2", at=float(second), counters=counters)))
    view = model.view()
    assert view.level is Level.WARN and len(view.signs) == 2
    assert "1 800/s" in view.signs[0].text and "80/s" in view.signs[1].text
    assert tile(view, "refused") == ("1 800", Level.WARN)


def test_old_certificates_lists_and_clocks() -> None:
    model = Operator()
    model.take(Round(100.0, looks.ring("n1", "n2", at=100.0, certificate_valid_for_s=60, revocation_age_s=300, clock=150.0)))
    texts = " ".join(sign.text for sign in model.view().signs)
    assert "certificate of node n1 ends in 1 min" in texts and "5 min old" in texts and "50 s ahead" in texts


def test_a_node_that_is_gone_from_the_look_is_forgotten() -> None:
    model = Operator()
    model.take(Round(1.0, looks.ring("n1", "n2")))
    model.take(Round(2.0, looks.ring("n1")))
    assert set(model.tracks) == {"node/n1"} and tile(model.view(), "nodes")[0] == "1 / 1"


@given(st.permutations(["a", "b", "c", "d"]), st.integers(0, 3))
def test_a_ring_is_whole_when_first_successors_lead_once_around(names: list[str], cut: int) -> None:
    around = dict(zip(names, [*names[1:], names[0]], strict=True))
    reports = {name: {"joined": True, "successors": (after,)} for name, after in around.items()}
    assert whole_ring(reports)
    shortened = names[cut]
    reports[shortened] = {"joined": True, "successors": (shortened,)}
    assert not whole_ring(reports)
    assert not whole_ring(reports | {shortened: {"joined": False, "successors": (around[shortened],)}})
    assert whole_ring({}) and whole_ring({"a": {"joined": True, "successors": ()}})


def test_an_owner_sees_the_attack_but_no_name_unless_he_asks() -> None:
    for reveal in (False, True):
        model = Owner("wiki", reveal=reveal)
        for second in range(6):
            counters = {"tunnels": 5.0 * second, "filter_refused_packets": 9e3 * second, "filter_refused_bytes": 1e7 * second}
            model.take(looks.site(float(second), counters))
        view = model.view()
        text = msgspec.json.encode(view).decode()
        assert ("n1" in text, "n2" in text) == (reveal, reveal)
        assert view.level is Level.WARN and "9 000 packets/s" in view.headline
        assert tile(view, "exposure")[0] == "2 of 8" and tile(view, "rotation")[0] == "1 min 30 s"
        assert [action.id for action in view.actions] == (["rotate", "burn"] if reveal else ["rotate"])


def test_an_owner_without_servlets_is_told_first() -> None:
    model = Owner("wiki")
    model.take(looks.site(1.0, serving=0, servlets={}))
    assert model.view().level is Level.BAD and "cannot come in" in model.view().headline
    model.take(Round(2.0, {}))
    assert "does not answer" in model.view().headline and "polder site run wiki" in model.view().next


def test_a_user_sees_the_quickest_access_point_in_use_and_that_none_answers() -> None:
    model = User("ann")
    for second in range(4):
        model.take(looks.user(float(second)))
    view = model.view()
    assert view.level is Level.GOOD and tile(view, "point")[0] == "n2" and tile(view, "rtt")[0] == "0.4 ms"
    assert [row[1].text for row in view.tables[0].rows] == ["ready", "in use", "not linked"]
    model.take(looks.user(5.0, links=()))
    assert model.view().level is Level.BAD and tile(model.view(), "point") == ("none", Level.BAD)


def test_a_user_sees_the_plane_in_use_and_every_relay_the_most_used_first() -> None:
    model = User("ann")
    model.take(looks.user(1.0))
    assert tile(model.view(), "plane") == ("tunnel", Level.PLAIN) and len(model.view().tables) == 2
    model.take(looks.user(2.0, sessions=(looks.session(),)))
    view = model.view()
    relays = view.tables[1]
    assert tile(view, "plane") == ("relays", Level.GOOD) and relays.title == "Relays to wiki"
    assert [row[0].text for row in relays.rows] == ["192.0.2.1:443", "192.0.2.2:443"]
    assert [cell.text for cell in relays.rows[1]] == ["192.0.2.2:443", "suspect", "25%", "40.0%", "18.5 ms", "12", "1 200", "900"]
    assert relays.rows[1][1].level is relays.rows[1][3].level is Level.WARN and view.level is Level.GOOD
    model.take(looks.user(3.0, sessions=(looks.session(carrier="tunnel"),)))
    view = model.view()
    assert tile(view, "plane") == ("tunnel", Level.WARN) and "wiki" in view.headline and "UDP" in view.next
    assert view.tables[1].title.endswith("an access point carries")
    model.take(looks.user(4.0, sessions=(looks.session(prefer=False),)))
    assert tile(model.view(), "plane")[0] == "tunnel"
    model.take(looks.user(5.0, sessions=(looks.session(),), plane="tunnel"))
    assert tile(model.view(), "plane") == ("tunnel", Level.PLAIN), "what is open over relays goes on, what begins does not"


FACTS = st.dictionaries(st.sampled_from(["tunnels", "handshakes_failed", "tunnels_open", "bytes_up"]), st.integers(0, 1 << 40))


@given(st.lists(st.tuples(st.booleans(), st.booleans(), FACTS), max_size=12))
def test_every_course_of_events_gives_a_view_whose_parts_fit(events: list[tuple[bool, bool, dict[str, float]]]) -> None:
    models = (Operator(), Owner("wiki"), User("ann"))
    for second, (first, second_alive, counters) in enumerate(events):
        at = float(second)
        parts: dict[str, Sample | str] = dict(looks.ring("n1", "n2", at=at, counters=counters))
        parts |= looks.site(at, counters).parts | looks.user(at, counters).parts
        parts |= {} if first else {"node/n1": "silent", "site/wiki": "silent"}
        parts |= {} if second_alive else {"node/n2": "silent", "user/ann": "silent"}
        for model in models:
            model.take(Round(at, parts))
    for model in models:
        view = model.view()
        assert view.headline and view.next
        for plot in view.plots:
            assert all(len(line.values) == len(plot.times) for line in plot.lines)
        for table in view.tables:
            assert all(len(row) == len(table.columns) for row in table.rows)
        assert msgspec.json.decode(msgspec.json.encode(view), type=View) == view


def test_a_drill_is_offered_to_an_operator_while_all_is_well() -> None:
    for admin, parts, offered in (
        (True, looks.ring("n1", "n2"), ["drill"]),
        (False, looks.ring("n1", "n2"), []),
        (True, looks.ring("n1"), []),
        (True, looks.ring("n1", "n2", "n3") | {"node/n2": "silent"}, []),
    ):
        model = Operator(admin=admin)
        model.take(Round(1.0, parts))
        assert [action.id for action in model.view().actions] == offered


def test_an_attack_that_has_ended_is_still_told() -> None:
    model = Owner("wiki")
    for second in range(60):
        model.take(looks.site(float(second), {"tunnels": 5.0 * second, "filter_refused_packets": 9e3 * min(second, 20)}))
    assert model.view().headline.startswith("Quiet") and "up to 9 000 packets/s" in model.view().signs[0].text
