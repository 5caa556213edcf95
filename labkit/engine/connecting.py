"""Connect and disconnect: a container's networks change after it was made (moby `daemon/container_operations.go`)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from labkit.engine import endpoints, naming
from labkit.engine.execution import carry_out
from labkit.errors import Conflict, Forbidden, InvalidParameter, LabkitError
from labkit.kernel.links import SetDefaultRoute
from labkit.kernel.resolver import ServeNames
from labkit.network import planning
from labkit.network.models import Endpoint
from labkit.plan import Context, Operation, Plan, Step
from labkit.trace import TraceContext

if TYPE_CHECKING:
    from labkit.engine.container import Container
    from labkit.engine.engine import Engine
    from labkit.engine.networks import Network

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
                del container.record.Networks[network.name]
                raise
        container.save(durable=True)
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
    netns = f"/proc/{container.run.pid}/ns/net"
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
            _disconnect_running(engine, network, container, endpoint, trace)
        del container.record.Networks[network.name]
        if not container.record.Networks and not container.run.running:
            container.record.HostConfig.NetworkMode = container.record.HostConfig.NetworkMode or "none"
        container.save(durable=True)
    engine.networks.tell(network, "disconnect", container)


def _disconnect_running(
    engine: Engine, network: Network, container: Container, endpoint: Endpoint, trace: TraceContext
) -> None:
    if not network.has_links:
        endpoints.let_go(engine, container, network, endpoint)
        return
    netns = f"/proc/{container.run.pid}/ns/net"
    interface = container.record.Sandbox.Interfaces[network.name]
    operations = planning.disconnect_operations(network.record, endpoint, interface, netns)
    plan = Plan("disconnect", tuple(Step("daemon", operation) for operation in operations))
    carry_out(engine, plan, container.id, trace)
    endpoints.let_go(engine, container, network, endpoint)
    rest = default_routes(engine, container, netns)
    names = _has_names(engine, container)
    rest += naming.file_operations(engine, container, names)
    plan = Plan("disconnect", tuple(Step("daemon", operation) for operation in rest))
    carry_out(engine, plan, container.id, trace)
    _look_again(engine, container)
