"""Who may talk to whom, worked out from the NetworkPolicies as a cluster's network does.

An edge needs leave at both of its ends.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.support.k8s_rig import Object, containers, of_kind, selects, workloads

Edge = tuple[str, str, int]  # from, to, port; UDP ports are negative
NAMESPACE = "varl"
DNS, ANY = 53, 1  # ANY stands for all ports that nobody names


@dataclass(frozen=True)
class Peer:
    """A pod, by the labels of itself and of its namespace, or an address beyond the cluster."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: Mapping[str, str] = field(default_factory=dict)
    address: str = ""

    @property
    def inside(self) -> bool:
        """Whether the policies of the namespace are about this pod."""
        return self.namespace.get("kubernetes.io/metadata.name") == NAMESPACE


def _elsewhere(name: str, namespace: str, labels: Mapping[str, str], *marks: str) -> Peer:
    return Peer(name, labels, {"kubernetes.io/metadata.name": namespace} | {f"varl/{mark}": "true" for mark in marks})


OUTSIDE = (
    _elsewhere("DNS", "kube-system", {"k8s-app": "kube-dns"}),
    _elsewhere("a system pod", "kube-system", {"k8s-app": "metrics-server"}),
    _elsewhere("another project", "theirs", {}, "reward-client"),
    _elsewhere("Prometheus", "monitoring", {}, "metrics"),
    _elsewhere("KEDA", "keda", {"app": "keda-operator"}),
    _elsewhere("a stranger", "default", {"app.kubernetes.io/name": "rollout"}),
    Peer("the internet", address="203.0.113.7"),
    Peer("the node's metadata", address="169.254.169.254"),
    Peer("the API server", address="10.96.0.1"),
)


def edges(objects: Sequence[Object]) -> set[Edge]:
    """Every edge that the policies allow with at least one end in the namespace."""
    policies = [one["spec"] for one in of_kind(objects, "NetworkPolicy")]
    peers = [*_inside(objects), *OUTSIDE]
    pairs = [(source, target) for source in peers for target in peers if source.inside or target.inside]
    return {
        (source.name, target.name, port)
        for source, target in pairs
        for port in _ports(objects)
        if _leaves(policies, source, target, port) and _enters(policies, source, target, port)
    }


def _inside(objects: Sequence[Object]) -> list[Peer]:
    (namespace,) = of_kind(objects, "Namespace")
    labels = namespace["metadata"]["labels"] | {"kubernetes.io/metadata.name": NAMESPACE}
    return [Peer(one.name, one.labels, labels) for one in workloads(objects)]


def _ports(objects: Sequence[Object]) -> set[int]:
    served = {port for one in containers(objects) for port in one.ports().values()}
    rules = [
        rule
        for one in of_kind(objects, "NetworkPolicy")
        for way in ("ingress", "egress")
        for rule in one["spec"].get(way, [])
    ]
    return served | {_signed(port) for rule in rules for port in rule.get("ports", [])} | {ANY, -ANY, DNS, -DNS}


def _signed(port: Object) -> int:
    assert port.keys() == {"protocol", "port"}, f"not evaluated here: {port}"
    return int(port["port"]) * (-1 if port["protocol"] == "UDP" else 1)


def _leaves(policies: Sequence[Object], source: Peer, target: Peer, port: int) -> bool:
    return _allowed(policies, source, target, port, ("Egress", "egress", "to"))


def _enters(policies: Sequence[Object], source: Peer, target: Peer, port: int) -> bool:
    return _allowed(policies, target, source, port, ("Ingress", "ingress", "from"))


def _allowed(policies: Sequence[Object], own: Peer, other: Peer, port: int, way: tuple[str, str, str]) -> bool:
    kind, rules, peers = way
    about = [
        one for one in policies if own.inside and kind in one["policyTypes"] and selects(one["podSelector"], own.labels)
    ]
    return not about or any(_rule(rule, rule.get(peers), other, port) for one in about for rule in one.get(rules, []))


def _rule(rule: Object, peers: Sequence[Object] | None, other: Peer, port: int) -> bool:
    ports = rule.get("ports")
    return (not ports or port in map(_signed, ports)) and (not peers or any(_is(peer, other) for peer in peers))


def _is(peer: Object, other: Peer) -> bool:
    if "ipBlock" in peer:
        return _in_block(peer["ipBlock"], other.address)
    if other.address:
        return False
    there = selects(peer["namespaceSelector"], other.namespace) if "namespaceSelector" in peer else other.inside
    return there and selects(peer.get("podSelector", {}), other.labels)


def _in_block(block: Object, address: str) -> bool:
    def holds(network: str) -> bool:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network)

    return bool(address) and holds(block["cidr"]) and not any(holds(network) for network in block.get("except", []))
