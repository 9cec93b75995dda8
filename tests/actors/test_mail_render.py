"""Templates: what they fill in, what they cannot do, and that nobody's template costs much."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.mail.render import MAX_OUTPUT, TemplateRefused, fill, letter

MARK = "zq7marker"


def refusal_of(source: str, **variables: Any) -> str:
    with pytest.raises(TemplateRefused) as refusal:
        fill(source, variables)
    return str(refusal.value)


def outcome_of(source: str, variables: dict[str, Any], *, html: bool = False) -> str:
    """The text, or what the refusal says; anything else that is raised is a failure."""
    try:
        return fill(source, variables, html=html)
    except TemplateRefused as refusal:
        return str(refusal)


class TestFilling:
    @pytest.mark.parametrize(
        ("source", "variables", "text"),
        [
            ("Hi {{ name }}!\n", {"name": "Ada"}, "Hi Ada!\n"),
            ("{{ order.items }}{{ order['items'] }}{{ l.0 }}{{ l[-1] }}", {"order": {"items": 3}, "l": [1, 2]}, "3312"),
            ("{{ '%.2f' }} {{ n + 1 - 3 }} {{ -n }}", {"n": 1.5}, "%.2f -0.5 -1.5"),
            ("{% for x in l if x.a %}{{ loop.index }}{{ x.a }}{% else %}none{% endfor %}", {"l": [{"a": "b"}]}, "1b"),
            ("{% for x in l %}{{ x }}{% else %}none{% endfor %}", {"l": []}, "none"),
            ("{% if a > 1 and not b %}yes{% endif %}{{ 'x' if a == 2 else 'y' }}", {"a": 2, "b": ""}, "yesx"),
            ("{{ no|default('so') }}{% if no is defined %}!{% endif %}{{ nil|default('so') }}", {"nil": None}, "soso"),
            ("{{ l|join(', ') }} {{ l|length }} {{ l|first|upper }}", {"l": ["a", 1]}, "a, 1 2 A"),
            ("{{ s|truncate(3) }} {{ s|urlencode }} {{ s|title|trim }}", {"s": "a/b c"}, "a/… a%2Fb%20c A/B C"),
        ],
    )
    def test_a_template_is_filled_in(self, source: str, variables: dict[str, Any], text: str) -> None:
        assert fill(source, variables) == text

    def test_values_are_escaped_in_html_alone(self) -> None:
        value = {"x": '<a href="\'">&'}
        assert fill("<p>{{ x }}</p>", value, html=True) == "<p>&lt;a href=&#34;&#39;&#34;&gt;&amp;</p>"
        assert fill("<p>{{ x }}</p>", value) == '<p><a href="\'">&</p>'

    @pytest.mark.parametrize("source", ["{{ x }}", "{{ x|upper }}", "{{ [x][0] }}", "{{ l|join }}", "{{ l|first }}"])
    def test_no_filter_takes_the_escape_away(self, source: str) -> None:
        try:
            assert "<" not in fill(source, {"x": "<b>", "l": ["<b>"]}, html=True)
        except TemplateRefused:
            assert "[" in source

    def test_the_mails_of_the_house_are_templates_in_both_forms(self) -> None:
        welcome = letter("welcome", name="Ada <b>")
        assert (welcome.subject, welcome.text[:15]) == ("Welcome", "Hello Ada <b>,\n")
        assert "Ada &lt;b&gt;" in welcome.html


class TestRefusals:
    @pytest.mark.parametrize(
        "source",
        [
            "{{ nope }}", "{{ o.nope }}", "{{ o.nope.more }}", "{{ l[9] }}", "{% if nope %}{% endif %}",
            "{% for x in nope %}{% endfor %}", "{{ nope|upper }}", "{{ x if nope }}", "{% if nope == 1 %}{% endif %}",
            "{{ l|join(nope) }}",
        ],
    )  # fmt: skip
    def test_a_variable_that_is_not_given_is_an_error(self, source: str) -> None:
        assert "not given" in refusal_of(f"first line\n{source}", o={}, l=[1])
        assert "line 2" in refusal_of(f"first line\n{source}", o={}, l=[1])

    @pytest.mark.parametrize("value", [None, True, [1], {"a": 1}])
    def test_only_text_and_numbers_are_written(self, value: Any) -> None:
        assert "neither text nor a number" in refusal_of("{{ x }}", x=value)

    @pytest.mark.parametrize(
        "source",
        [
            "{{ x.__class__ }}", "{{ x['__class__'] }}", "{{ ''.__class__.__mro__ }}", "{{ x.upper }}", "{{ o.keys }}",
            "{{ x.upper() }}", "{{ self }}", "{{ self.x }}", "{{ self.__init__ }}", "{{ loop }}", "{{ x|attr('y') }}",
            "{% for i in l %}{{ loop }}{% endfor %}", "{% for i in l %}{{ loop.cycle }}{% endfor %}",
            "{% for i in l %}{{ loop.__class__ }}{% endfor %}", "{% for i in l %}{{ loop._iterator }}{% endfor %}",
            "{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}", "{% block a %}{% endblock %}",
            "{% set a = 1 %}", "{% macro a() %}{% endmacro %}", "{% filter upper %}{% endfilter %}",
            "{% autoescape false %}{{ x }}{% endautoescape %}", "{% with a = 1 %}{% endwith %}", "{{ x|safe }}",
            "{{ range(3) }}", "{{ lipsum() }}", "{{ cycler(1) }}", "{{ dict() }}", "{{ namespace() }}",
            "{{ x|center(9) }}", "{{ x|format(1) }}", "{{ x|indent }}", "{{ x|replace('a', 'b') }}", "{{ x|tojson }}",
            "{{ 2 ** 9 }}", "{{ x * 9 }}", "{{ x % 9 }}", "{{ x ~ x }}", "{{ x + x }}", "{{ l + l }}", "{{ [1] }}",
            "{{ x in l }}", "{{ l == l }}", "{{ x is eq x }}", "{{ x is sameas x }}", "{{ l|join(*l) }}",
            "{% for i in x %}{% endfor %}", "{% for i in l recursive %}{{ loop(l) }}{% endfor %}",
            "{% for a in l %}{% for b in l %}{% for c in l %}{% endfor %}{% endfor %}{% endfor %}",
            "{{ x", "{% if x %}", "{{ " + "(" * 9000, "{{ x" + ".a" * 300 + " }}", "{{ 1" + "0" * 9000 + " }}",
        ],
    )  # fmt: skip
    def test_what_reaches_beyond_the_variables_or_grows_is_refused(self, source: str) -> None:
        refusal_of(source, x="x", o={}, l=["x"])

    @pytest.mark.parametrize(
        ("source", "variables"),
        [
            ("{% for a in l %}{% for b in l %}{% endfor %}{% endfor %}", {}),
            ("{% for a in l %}{{ s|upper|length }}{% endfor %}", {}),
            ("{% for a in l %}{{ l|join|length }}{% endfor %}", {}),
            ("{% for a in l %}{% if s == t %}{% endif %}{% endfor %}", {}),
            ("{% for a in l %}{{ s }}{% endfor %}", {}),
            ("{{ l|join(s) }}", {}),
            ("{{ a + " * 30_000, {}),
            ("{{ a }}" * 30_000, {"a": ""}),
        ],
    )
    def test_too_much_work_ends_early(self, source: str, variables: dict[str, Any]) -> None:
        large = {"l": list(range(50_000)), "s": "x" * 200_000, "t": "x" * 199_999 + "y", **variables}
        assert "too m" in (refusal := refusal_of(source, **large)) or "more than" in refusal

    @given(st.text(max_size=30))
    @example("}}{% set ")
    def test_no_refusal_repeats_the_template_or_a_variable(self, text: str) -> None:
        for source in (f"{{{{ {MARK}{text} }}}}", f"{{% {MARK} {text}", f"{{{{ x|{MARK} }}}}{text}", "{{ x.y + 1 }}"):
            assert MARK not in outcome_of(source, {"x": {"y": MARK}})


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)
PIECES = st.sampled_from(
    ["{{ a }}", "{{ b.c }}", "{{ a.__class__ }}", "{{ a|upper }}", "{{ b|join(a) }}", "{% for x in b %}", "{% endfor %}",
     "{% if a %}", "{% else %}", "{% endif %}", "{{ x }}", "{{ loop.index + a }}", "{{ a.format }}", "{{ a|default(b) }}",
     "{{ a|length }}", "{{ a == b }}", "{% for x in x %}", "{{ loop }}", "{{ self }}", "{{ b[a] }}", "{{ a[b] }}",
     "{{ a|first|last }}", "{{ a|title|urlencode }}", "{{ -a }}", "{{ a|truncate(a) }}", "{{ x.c.b }}"]
) | st.text(max_size=8)  # fmt: skip


@given(st.lists(PIECES, max_size=12).map("".join), st.dictionaries(st.sampled_from("abcx"), VALUES), st.booleans())
@example("{% for x in b %}{{ a }}{% endfor %}", {"a": "x" * 10_000, "b": [1] * 200}, False)
def test_whatever_the_template_its_outcome_is_text_within_the_bound_or_a_refusal(
    source: str, variables: dict[str, Any], html: bool
) -> None:
    filled = outcome_of(source, variables, html=html)
    assert len(filled.encode(errors="surrogatepass")) <= MAX_OUTPUT
    for inside in ("<class", "<built-in", "<bound method", "object at 0x", "LoopContext", "TemplateReference"):
        assert inside not in filled or inside in source or inside in str(variables)
