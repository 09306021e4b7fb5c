"""The checker: what is trusted, what is verified, what is kept, and how it explains itself."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polder.keynote import Checker, KeyNoteError, Limits, Why, parse, principal
from polder.keynote import checker as checker_module
from polder.keynote.explain import as_dict, drawn, explain
from polder.keynote.signing import make_signature, sign, wrap
from tests.keynote.worlds import credential, key, policy, who


def chain(length: int, conditions: str = 'a == "b";') -> tuple[str, list[str], str]:
    """A policy for p0, credentials from p0 to p1 and so on, and who asks."""
    links = [credential(f"p{n}", f'"{who(f"p{n + 1}")}"', conditions) for n in range(length)]
    return policy(f'"{who("p0")}"'), links, who(f"p{length}")


def test_channels() -> None:
    """A stranger's POLICY, an unsigned credential and a credential of a mere name count for nothing (§5.4)."""
    unsigned = f'Authorizer: "{who("p0")}"\nLicensees: "me"\n'
    for text, kind in (
        (policy('"me"'), Why.UNSIGNED),
        (unsigned, Why.UNSIGNED),
        (unsigned + "Signature:\n", Why.UNSIGNED),
        (policy('"me"') + 'Signature: "sig-ed25519-hex:00"\n', Why.UNSIGNED),
    ):
        answer = Checker().query([policy(f'"{who("p0")}"')], [text], ["me"], {})
        assert not answer.passed
        noted = Checker().query([policy(f'"{who("p0")}"')], [text], ["me"], {}, whole=True).entries[1].error
        assert noted is not None
        assert noted.kind is kind


def test_signatures_are_checked_from_policy_down_and_no_further_than_needed() -> None:
    """A forged link costs the signatures above it and its own; those below it are not looked at."""
    top, links, me = chain(12)
    for place in (0, 5, 11):
        forged = [*links]
        forged[place] = forged[place].replace('a == "b"', 'a != "c"')
        checker = Checker()
        answer = checker.query([top], forged, [me], {"a": "b"})
        assert not answer.passed and checker.counts["signatures"] == place + 1
        assert [entry.level for entry in answer.entries] == [0] * 13
        assert [entry.checked for entry in answer.entries] == [True] * (place + 2) + [False] * (11 - place)
        # Another way beside the forged one still counts.
        assert checker.query([top], [*forged, links[place]], [me], {"a": "b"}).passed


def test_many_forged_ways_do_not_make_the_search_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is found out, and the values are found again a few times only, however many there are; a good way beside them counts."""
    top, (good,), me = chain(1)
    forged = [good.replace('a == "b"', f'a != "c{number}"') for number in range(20)]
    searched: list[int] = []
    search = checker_module._Run._spread

    def counted(*arguments: Any) -> Any:
        searched.append(1)
        return search(*arguments)

    monkeypatch.setattr(checker_module._Run, "_spread", counted)
    checker = Checker()
    answer = checker.query([top], forged, [me], {"a": "b"})
    assert not answer.passed and (checker.counts["signatures"], checker.counts["left-out-signature"]) == (20, 20)
    assert len(searched) <= 6
    assert checker.query([top], [*forged, good], [me], {"a": "b"}).passed


def test_conditions_must_be_there_where_money_is_spent() -> None:
    """An absent field would grant everything (§5.3.4)."""
    bare = credential("p0", '"me"', None)
    root = policy(f'"{who("p0")}"')
    assert Checker().query([root], [bare], ["me"], {}).passed
    answer = Checker().query([root], [bare], ["me"], {}, require_conditions=True)
    assert not answer.passed
    assert answer.entries[1].error is not None
    assert answer.entries[1].error.kind is Why.NO_CONDITIONS


def test_signatures_are_checked_last_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is verified for who cannot gain by it; what was verified is not verified again."""
    from polder.keynote import checker as module

    asked: list[str] = []
    real = module.signatures.verify

    def counting(signed: str, *rest: object) -> str:
        asked.append(signed)
        return real(signed, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module.signatures, "verify", counting)
    root, links, asker = chain(4)
    checker = Checker()
    assert not checker.query([root], links, [asker], {"a": "c"}).passed
    assert not checker.query([root], links, ["somebody"], {"a": "b"}).passed
    assert asked == []
    for _ in range(3):
        assert checker.query([root], [link.encode() for link in links], [asker], {"a": "b"}).passed
    assert len(asked) == 4
    strict = Checker(Limits(signatures=3))
    with pytest.raises(KeyNoteError, match="more than 3 signatures"):
        strict.query([root], links, [asker], {"a": "b"})


def test_what_was_done_is_counted() -> None:
    """Queries, signatures, refusals by kind."""
    root, links, asker = chain(2)
    checker = Checker(Limits(assertions=4))
    checker.query([root], [links[0], links[1].replace("a == ", "b == ")], [asker], {"a": "b", "b": "b"})
    checker.query([root], links, [asker], {"a": "b"})
    with pytest.raises(KeyNoteError):
        checker.query([root] * 5, [], [asker], {})
    assert checker.counts == {"queries": 3, "signatures": 3, "left-out-signature": 1, "refused-limit": 1}


def test_what_is_kept_is_bounded() -> None:
    """The oldest goes; nothing unverified is kept."""
    checker = Checker(Limits(cached=3))
    for number in range(8):
        text = credential("p0", f'"m{number}"', "true;")
        assert checker.query([policy(f'"{who("p0")}"')], [text], [f"m{number}"], {}).passed
        forged = text.replace(f'"m{number}"', '"x"')
        assert not checker.query([policy(f'"{who("p0")}"')], [forged], ["x"], {}).passed
    assert len(checker._known) == len(checker._proven) == 3


def test_keeping_does_not_widen_trust() -> None:
    """An old signature that one policy accepted is refused under the next that does not name it."""
    text = credential("old", '"me"', "true;", "rsa", "sig-rsa-sha1-base64:")
    root = policy(f'"{who("old", "rsa")}"')
    checker = Checker()
    assert checker.query([root, policy('"x"', constants='_ACCEPT_SIGNATURES = "sig-rsa-sha1"')], [text], ["me"], {}).passed
    assert not checker.query([root], [text], ["me"], {}).passed
    wrong = policy('"x"', constants='_ACCEPT_SIGNATURES = "sig-nothing"')
    answer = checker.query([root, wrong], [text], ["me"], {})
    assert not answer.passed
    assert answer.entries[1].error is not None


def test_a_stranger_cannot_name_old_algorithms() -> None:
    """`_ACCEPT_SIGNATURES` in a credential is a constant like any other."""
    signer = key("old", "rsa")
    body = (
        'Local-Constants: _ACCEPT_SIGNATURES = "sig-rsa-sha1"\n'
        f'Authorizer: "{who("old", "rsa")}"\nLicensees: "me"\nConditions: _ACCEPT_SIGNATURES == "sig-rsa-sha1";\n'
    )
    answer = Checker().query([policy(f'"{who("old", "rsa")}"')], [sign(body, signer, "sig-rsa-sha1-hex:")], ["me"], {})
    assert not answer.passed
    assert answer.entries[1].error is not None
    assert answer.entries[1].error.kind is Why.ALGORITHM


def test_authors_that_come_of_attributes() -> None:
    """An author named by the action is verified as that key, each time it is another."""
    text = credential("p0", '"me"', "true;").replace(f'"{who("p0")}"', "author")
    body = text.partition("Signature:")[0]
    text = body + "Signature:\n" + wrap(make_signature(body + "Signature:\n", key("p0"), "sig-ed25519-base64:"))
    checker = Checker()
    root = [policy(f'"{who("p0")}"'), policy(f'"{who("p1")}"')]
    assert checker.query(root, [text], ["me"], {"author": who("p0")}).passed
    assert not checker.query(root, [text], ["me"], {"author": who("p1")}).passed


def test_explanations() -> None:
    """Every assertion has its reason, in words and for programs."""
    root, links, asker = chain(3)
    loose = credential("stranger", f'"{asker}"', "true;")
    picky = credential("p2", f'"{asker}"', '@n > 3 && x ~= "^a" -> "true"; 1/0 == 1; true -> "odd";')
    empty = credential("p2", f'"{asker}"', "")
    forged = links[2].replace('a == "b"', "true")
    answer = Checker().query([root, "nonsense"], [*links, loose, picky, empty, forged], [asker], {"a": "b", "n": "2"}, whole=True)
    notes = explain(answer)
    assert answer.passed
    assert [note.kind for note in notes] == [
        "counted", "refused", "counted", "counted", "counted", "unused", "conditions", "conditions", "refused",
    ]  # fmt: skip
    assert notes[6].why.startswith('clause 1: @n > 3 is false (n is "2"); clause 2: (1 / 0) == 1 fails: a division by zero')
    assert 'its value "odd" is none of true' in notes[6].why
    assert "empty" in notes[7].why
    assert "signature" in notes[8].why
    lines = drawn(answer)
    assert lines[0] == "POLICY: true"
    assert sum("by assertion" in line for line in lines) == 6
    assert json.loads(json.dumps(as_dict(answer)))["assertions"][5]["kind"] == "unused"
    nobody = explain(Checker().query([root], links, ["somebody"], {"a": "b"}, whole=True))
    assert [note.kind for note in nobody] == ["licensees"] * 4


def test_what_was_not_checked_is_worth_nothing() -> None:
    """A forged credential on which the answer does not rest is not looked at, and not believed either."""
    root, links, asker = chain(2)
    forged = credential("stranger", f'"{asker}"', "true;").replace("true;", "1 == 1;")
    answer = Checker().query([root], [*links, forged], [asker], {"a": "b"})
    assert answer.passed
    assert [entry.level for entry in answer.entries] == [1, 1, 1, 0]
    assert [entry.checked for entry in answer.entries] == [True, True, True, False]
    assert principal(who("stranger")) not in answer.levels
    whole = Checker().query([root], [*links, forged], [asker], {"a": "b"}, whole=True)
    assert whole.passed
    assert whole.entries[3].error is not None


def test_a_heap_of_credentials_costs_a_bounded_search() -> None:
    """Many licensees in many fields are refused; regular expressions of one assertion share a budget, those of others have their own."""
    wide = [
        f'Authorizer: "p{n}"\nLicensees: {" || ".join(f"{chr(34)}q{n}-{m}{chr(34)}" for m in range(100))}\n' for n in range(6)
    ]
    with pytest.raises(KeyNoteError, match="licensees in all"):
        Checker().query([policy('"me"'), *wide], [], ["me"], {})
    bomb = policy('"me"', " || ".join(['x ~= "((a*)*b)*" . "c"'] * 50) + ";")
    made = 'x ~= (y . "c")'
    answer = Checker().query([bomb, policy('"me"', 'x ~= "a+$";')], [], ["me"], {"x": "a" * 500})
    assert answer.passed
    assert [entry.conditions for entry in answer.entries] == [0, 1]
    assert not Checker().query([bomb], [], ["me"], {"x": "a" * 2000}).passed
    for times, enough in ((1, True), (9, False)):
        found = Checker().query(
            [policy('"me"', " || ".join([made] * times) + " || true;")], [], ["me"], {"x": "a", "y": "a" * 400}
        )
        assert found.passed is enough


NAMES = st.sampled_from(["POLICY", "a", "b", "c", "d", "me"])
LICENSEES = st.recursive(
    NAMES.map(lambda name: f'"{name}"'),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda three: f"({three[0]} {three[1]} {three[2]})"),
        st.tuples(NAMES, NAMES, NAMES).map(lambda three: '2-of("{}", "{}", "{}")'.format(*three)),
    ),
    max_leaves=4,
)
CONDITIONS = st.sampled_from(
    ["true;", 'x == "1" -> "low";', 'x ~= "[0-3]" -> "high";', "1/0 == 1;", "false;", "@x > 1 -> _MAX_TRUST;"]
)
ASSERTIONS = st.builds(
    lambda author, to, when: f'Authorizer: "{author}"\nLicensees: {to}\nConditions: {when}\n', NAMES, LICENSEES, CONDITIONS
)


@settings(max_examples=150)
@given(st.lists(ASSERTIONS, max_size=8), ASSERTIONS, st.sampled_from(["1", "2", "9", "no"]))
def test_monotone(assertions: list[str], more: str, x: str) -> None:
    """One more assertion never lowers the answer (§7); neither does asking everything instead of what matters."""
    values = ("no", "low", "high", "yes")
    before = Checker().query(assertions, [], ["me"], {"x": x}, values)
    after = Checker().query([*assertions, more], [], ["me"], {"x": x}, values)
    whole = Checker().query([*assertions, more], [], ["me"], {"x": x}, values, whole=True)
    assert before.index <= after.index == whole.index
    assert {name: level for name, level in after.levels.items() if level} == {
        n: level for n, level in whole.levels.items() if level
    }
    kinds = [note.kind for note in explain(whole)]
    assert len(kinds) == len(assertions) + 1
    assert whole.index == 0 or "counted" in kinds


NODES = st.integers(0, 9)
EDGES = st.lists(st.tuples(NODES, st.lists(NODES, min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 3)), max_size=40)


@settings(max_examples=80)
@given(EDGES)
def test_evaluation_ends_within_what_the_graph_has(edges: list[tuple[int, list[int], int, int]]) -> None:
    """Whatever delegates to whom, in circles too: each condition is asked once, and licensees once for each value that can rise."""
    values = ("no", "low", "high", "yes")
    texts = []
    for author, to, least, level in edges:
        names = ", ".join(f'"p{one}"' for one in to)
        who = f"p{author}" if author else "POLICY"
        head = f'Authorizer: "{who}"\nLicensees: {min(least, len(to))}-of({names})\n'
        texts.append(f'{head}Conditions: true -> "{values[level]}";\n')
    asked: Counter[str] = Counter()

    def counted(name: str) -> Any:
        real = getattr(checker_module, name)

        def call(*arguments: Any) -> Any:
            asked[name] += 1
            return real(*arguments)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("value_of", "licensees"):
            patch.setattr(checker_module, name, counted(name))
        answer = Checker().query(texts, [], ["p9"], {}, values)
    assert answer.value in values
    assert asked["value_of"] <= len(texts)
    # An assertion hears of each rise of each of its licensees, and then looks at its tree: itself and four at most.
    assert asked["licensees"] <= (len(values) - 1) * sum(len(set(to)) for _, to, _, _ in edges) * 5


SOUP = st.lists(
    st.sampled_from(
        [
            *("Authorizer:", "Licensees:", "Conditions:", "Signature:", "Local-Constants:", "Comment:", "KeyNote-Version:"),
            *("\n", " ", "\t", '"a"', "a", "true", '"POLICY"', '"(a*)*"', '"rsa-hex:30"', "_1", "2", "2.5", "-of(", "#", "\\", '"'),
            *("=", "==", "~=", "->", "{", "}", ";", "(", ")", ",", "&&", "||", "!", "@", "&", "$", "-", "+", "*", "/", "^", "."),
        ]
    ),
    max_size=60,
).map("".join)  # fmt: skip


@settings(max_examples=200)
@given(
    st.one_of(SOUP, st.text(max_size=80), SOUP.map(lambda text: f'Authorizer: "POLICY"\nLicensees: "me"\nConditions: {text};'))
)
def test_any_text_is_an_assertion_or_a_refusal(text: str) -> None:
    """And what it is worth is always found."""
    try:
        one = parse(text)
    except KeyNoteError:
        return
    answer = Checker().query([one], [text], ["me"], {"a": "a"}, whole=True)
    assert answer.value in ("true", "false")
    assert len(explain(answer)) == 2
    assert parse(one.text).signed == one.signed
