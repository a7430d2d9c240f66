"""JUnit's XML, which every continuous integration shows: a suite of cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree  # writes only: nothing of a stranger's is parsed


@dataclass(frozen=True)
class Case:
    """One test: passed, unless it failed or was skipped."""

    group: str
    name: str
    failure: str = ""  # why
    skipped: str = ""  # why
    about: str = ""  # for whoever looks at it
    seconds: float = 0.0
    properties: Mapping[str, str] = field(default_factory=dict)


def suite(name: str, cases: Iterable[Case], timestamp: str = "") -> str:
    """The file of one suite."""
    found = list(cases)
    root = ElementTree.Element("testsuite", name=_plain(name))
    for each in found:
        root.append(_element(each))
    root.set("tests", str(len(found)))
    root.set("failures", str(sum(bool(each.failure) for each in found)))
    root.set("errors", "0")
    root.set("skipped", str(sum(bool(each.skipped and not each.failure) for each in found)))
    if timestamp:
        root.set("timestamp", timestamp)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _element(case: Case) -> ElementTree.Element:
    time = f"{case.seconds:.4f}" if case.seconds else "0"
    found = ElementTree.Element(
        "testcase", classname=_plain(case.group), name=_plain(case.name), time=time
    )
    if case.properties:
        properties = ElementTree.SubElement(found, "properties")
        for name, value in case.properties.items():
            ElementTree.SubElement(properties, "property", name=name, value=_plain(value))
    if case.failure:
        why = _plain(case.failure)
        ElementTree.SubElement(found, "failure", message=why, type="parity").text = why
    elif case.skipped:
        ElementTree.SubElement(found, "skipped", message=_plain(case.skipped))
    if case.about:
        ElementTree.SubElement(found, "system-out").text = _plain(case.about)
    return found


def _plain(text: str) -> str:
    """Without characters that XML cannot hold."""
    return "".join(each for each in text if each in "\t\n\r" or each >= " ")
