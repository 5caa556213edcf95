"""Connect and disconnect: a container's networks change after it was made (moby `daemon/container_operations.go`)."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from labkit.engine import endpoints, naming, ports
from labkit.engine.execution import carry_out
from labkit.errors import Conflict, Forbidden, InvalidParameter, LabkitError
from labkit.kernel.links import SetDefaultRoute
from labkit.kernel.resolver import ServeNames
from labkit.network import planning
from labkit.network.models import Endpoint
from labkit.plan import Context, Operation, Plan, Step
from labkit.trace import TraceContext, new_trace

if TYPE_CHECKING:
    from labkit.engine.container import Container
    from labkit.engine.engine import Engine
    from labkit.engine.networks import Network

log = logging.getLogger("labkit.engine")

_HOST = "container cannot be disconnected from host network or connected to host network"


def users(engine: Engine, network: Network) -> list[Container]:
    """The containers that have an endpoint in a network, or will have when they are started."""
    return [container for container in engine.containers.values() if network.name in container.record.Networks]


async def connect(
    engine: Engine, network: Network, container: Container, wanted: Endpoint | None, trace: TraceContext
) -> None:
    """Connect a container to one more network. Raises Conflict, Forbidden, InvalidParameter in dockerd's words."""
    async with container.lock:
        _check_connectable(network, container)
        endpoint = wanted or Endpoint()
        endpoint.NetworkID = network.id
        endpoints.check_endpoint(engine, network.name, endpoint)
        if network.name in container.record.Networks and container.run.running:
            raise Forbidden(f"endpoint with name {container.name} already exists in network {network.name}")
        container.record.Networks[network.name] = endpoint
        if container.run.running:
            try:
                _connect_running(engine, network, container, trace)
            except LabkitError:
                endpoints.let_go(engine, container, network, endpoint)
                _changed(container, network, gone=True)
                _refresh(engine, container, trace)
                raise
        _changed(container, network)
        _move_ports(engine, container, trace)
    if not container.run.running:
        engine.networks.tell(network, "connect", container)


def _check_connectable(network: Network, container: Container) -> None:
    """moby `daemon/container_operations.go`, `updateNetworkSettings`."""
    if network.name == "host" and container.record.HostConfig.NetworkMode != "host":
        raise InvalidParameter(_HOST)
    if endpoints.shares(container.record) or container.record.HostConfig.NetworkMode == "host":
        raise InvalidParameter(
            "container sharing network namespace with another container or host cannot be connected to any other "
            "network"
        )
    if "none" in container.record.Networks or (network.name == "none" and container.record.Networks):
        raise InvalidParameter(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
        )
    if container.record.State.Dead:
        raise Conflict(
            f"container {container.id} is marked for removal and cannot be connected or disconnected to the network"
        )


def _connect_running(engine: Engine, network: Network, container: Container, trace: TraceContext) -> None:
    endpoints.enter(container, network)
    if not network.has_links:
        engine.networks.tell(network, "connect", container)
        return
    endpoints.lease(engine, container, network)
    _changing(container, network)
    netns = _netns(container)
    attached = endpoints.attachment(container, network, _networks(engine, container))
    operations = planning.attach_operations(replace(attached, default4=False, default6=False), netns)
    operations += default_routes(engine, container, netns)
    first_name = network.has_names and not _has_names(engine, container)
    operations += [ServeNames(netns)] if first_name else []
    operations += naming.file_operations(engine, container, network.has_names or _has_names(engine, container))
    context = Context()
    plan = Plan("connect", tuple(Step("daemon", operation) for operation in operations))
    carry_out(engine, plan, container.id, trace, context)
    endpoints.announce(engine, container, network)
    endpoints.serve_names(engine, container, context.descriptors)
    _look_again(engine, container)
    engine.networks.tell(network, "connect", container)


def _networks(engine: Engine, container: Container) -> list[Network]:
    """The networks that a running container is attached to, in the record's order."""
    found = engine.networks.found
    attached = [one.NetworkID for one in container.record.Networks.values() if one.EndpointID]
    return [found[identity] for identity in attached if identity in found and found[identity].has_links]


def default_routes(engine: Engine, container: Container, netns: str) -> list[Operation]:
    """What makes a running container's default routes those of the networks that it has now."""
    networks = _networks(engine, container)
    operations: list[Operation] = []
    for network in networks:
        attached = endpoints.attachment(container, network, networks)
        if chosen := planning.gateways(attached):
            operations.append(SetDefaultRoute(attached.interface, chosen, netns))
    return operations


def _has_names(engine: Engine, container: Container) -> bool:
    """Whether a container has a name server of its own."""
    return container.id in engine.nameserver.services


def _look_again(engine: Engine, container: Container) -> None:
    """The container's networks have changed: so has what its name server may tell."""
    if _has_names(engine, container):
        engine.nameserver.change(container.id, endpoints.sight(engine, container))


async def disconnect(engine: Engine, network: Network, container: Container, trace: TraceContext) -> None:
    """Take a container off a network. Raises Forbidden, InvalidParameter in dockerd's words."""
    async with container.lock:
        if network.name == "host" or container.record.HostConfig.NetworkMode == "host":
            raise InvalidParameter(_HOST)
        endpoint = container.record.Networks.get(network.name)
        if endpoint is None:
            raise Forbidden(f"container {container.id} is not connected to network {network.name}")
        if endpoints.shares(container.record):
            raise InvalidParameter("a container that shares another's network can't be disconnected from it")
        if container.run.running and endpoint.EndpointID:
            _changing(container, network)
            _take_off(engine, network, container, endpoint, trace)
        _changed(container, network, gone=True)
        _move_ports(engine, container, trace)
    engine.networks.tell(network, "disconnect", container)


def _take_off(engine: Engine, network: Network, container: Container, endpoint: Endpoint, trace: TraceContext) -> None:
    """Take a running container off a network. That the link isn't there any more is fine."""
    if network.has_links:
        interface = container.record.Sandbox.Interfaces[network.name]
        operations = planning.disconnect_operations(network.record, endpoint, interface, _netns(container))
        plan = Plan("disconnect", tuple(Step("daemon", operation) for operation in operations))
        carry_out(engine, plan, container.id, trace)
    endpoints.let_go(engine, container, network, endpoint)
    if network.has_links:
        _refresh(engine, container, trace)


def _refresh(engine: Engine, container: Container, trace: TraceContext) -> None:
    """Bring default routes and files to the networks that a running container has now.

    What can't be done is logged: the container may have deleted its own links.
    """
    operations = default_routes(engine, container, _netns(container))
    operations += naming.file_operations(engine, container, _has_names(engine, container))
    for operation in operations:
        try:
            carry_out(engine, Plan("refresh", (Step("daemon", operation),)), container.id, trace)
        except LabkitError as error:
            log.warning("%s: %s", container.name, error)
    _look_again(engine, container)


def _netns(container: Container) -> str:
    return f"/proc/{container.run.pid}/ns/net"


def _changing(container: Container, network: Network) -> None:
    """From here on a crash ends in the container being off this network."""
    container.record.Sandbox.Changing = network.name
    container.save()


def _changed(container: Container, network: Network, gone: bool = False) -> None:
    container.record.Sandbox.Changing = ""
    if gone:
        del container.record.Networks[network.name]
    container.save(durable=True)


def _move_ports(engine: Engine, container: Container, trace: TraceContext) -> None:
    if container.run.running:
        try:
            ports.move(engine, container, [network.record for network in _networks(engine, container)], trace)
        finally:
            container.save()


def resume(engine: Engine, container: Container) -> None:
    """Settle what a killed daemon left half done: the container runs, and is on the networks of its record, with names.

    One that was being connected or disconnected is off that network.
    """
    trace = new_trace()
    name = container.record.Sandbox.Changing
    if endpoint := container.record.Networks.get(name):
        network = engine.networks.find(name)
        _take_off(engine, network, container, endpoint, trace)
        _changed(container, network, gone=True)
    try:
        _serve_names(engine, container, trace)
        _move_ports(engine, container, trace)
    except LabkitError as error:
        log.warning("%s: %s", container.name, error)


def _serve_names(engine: Engine, container: Container, trace: TraceContext) -> None:
    """A name server that came with a network while the container ran went with the daemon: open its sockets again."""
    if _has_names(engine, container) or not any(one.has_names for one in _networks(engine, container)):
        return
    context = Context()
    carry_out(engine, Plan("connect", (Step("daemon", ServeNames(_netns(container))),)), container.id, trace, context)
    endpoints.serve_names(engine, container, context.descriptors)
