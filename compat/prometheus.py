"""What Ray's tests read of ``/metrics``: here one page for the whole cluster, behind the token.

The cluster's own names, and those of users, begin with ``ract_`` there, and with ``ray_`` here.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ract
from ract.core.security import load_token

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Sample

TIMEOUT_S = 10.0
OURS, RAYS = "ract_", "ray_"


@dataclass
class MetricSamplePattern:
    """What a sample must have; None: anything."""

    name: str | None = None
    value: float | None = None
    partial_label_match: dict[str, str] | None = None

    def matches(self, sample: Sample) -> bool:
        """Whether the sample has all of it."""
        labels = self.partial_label_match or {}
        return (
            self.name in (None, sample.name)
            and self.value in (None, sample.value)
            and labels.items() <= sample.labels.items()
        )


@dataclass
class PrometheusTimeseries:
    """The newest sample of each series."""

    components_dict: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    metric_descriptors: dict[str, Metric] = field(default_factory=dict)
    metric_samples: dict[frozenset[tuple[str, str]], Sample] = field(default_factory=dict)

    def flush(self) -> None:
        """Forget what was read."""
        self.components_dict.clear()
        self.metric_descriptors.clear()
        self.metric_samples.clear()


def fetch_raw_prometheus(
    prom_addresses: Sequence[str], timeout: float | None = None
) -> Iterator[tuple[str, str]]:
    """(address, text) of the pages at these addresses, as far as they can be had."""
    for address in prom_addresses:
        headers = {"Authorization": f"Bearer {load_token()}"}
        request = urllib.request.Request(f"http://{address}/metrics", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout or TIMEOUT_S) as response:
                text = response.read().decode()
        except (urllib.error.URLError, OSError):
            continue
        yield address, text


def fetch_prometheus(
    prom_addresses: Sequence[str], timeout: float | None = None
) -> tuple[dict[str, set[str]], dict[str, Metric], list[Sample]]:
    """(components by address, metrics by the names of their samples, all samples)."""
    from prometheus_client.parser import text_string_to_metric_families

    components: dict[str, set[str]] = {address: set() for address in prom_addresses}
    metrics: dict[str, Metric] = {}
    samples: list[Sample] = []
    for address, text in fetch_raw_prometheus(prom_addresses, timeout):
        for metric in text_string_to_metric_families(text):
            for theirs in metric.samples:
                sample = theirs._replace(name=_as_in_ray(theirs.name))
                metrics[sample.name] = metric
                samples.append(sample)
                if "Component" in sample.labels:
                    components[address].add(sample.labels["Component"])
    return components, metrics, samples


def fetch_prometheus_timeseries(
    prom_addreses: Sequence[str], result: PrometheusTimeseries, timeout: float | None = None
) -> PrometheusTimeseries:
    """Add to ``result`` what the pages say now."""
    components, metrics, samples = fetch_prometheus(prom_addreses, timeout)
    for address, found in components.items():
        result.components_dict.setdefault(address, set()).update(found)
    result.metric_descriptors.update(metrics)
    for sample in samples:
        series = frozenset({**sample.labels, "_metric_name_": sample.name}.items())
        result.metric_samples[series] = sample
    return result


def fetch_prometheus_metrics(prom_addresses: Sequence[str]) -> dict[str, list[Sample]]:
    """Samples by name."""
    return _by_name(fetch_prometheus(prom_addresses)[2])


def fetch_prometheus_metric_timeseries(
    prom_addresses: Sequence[str], result: PrometheusTimeseries, timeout: float | None = None
) -> dict[str, list[Sample]]:
    """As `fetch_prometheus_timeseries`: samples by name."""
    read = fetch_prometheus_timeseries(prom_addresses, result, timeout)
    return _by_name(read.metric_samples.values())


def raw_metric_timeseries(info: Any, result: PrometheusTimeseries) -> dict[str, list[Sample]]:
    """The same, of the cluster that ``init`` has told of."""
    address = f"{info['node_ip_address']}:{info['metrics_export_port']}"
    return fetch_prometheus_metric_timeseries([address], result)


def get_metric_check_condition(
    metrics_to_check: Sequence[MetricSamplePattern],
    timeseries: PrometheusTimeseries,
    export_addr: str | None = None,
) -> Callable[[], bool]:
    """A condition for `wait_for_condition`: each pattern matches some sample."""
    node = ract.nodes()[0]
    address = export_addr or f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"

    def found() -> bool:
        samples = fetch_prometheus_timeseries([address], timeseries).metric_samples.values()
        return all(any(map(pattern.matches, samples)) for pattern in metrics_to_check)

    return found


def _by_name(samples: Any) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[sample.name].append(sample)
    return found


def _as_in_ray(name: str) -> str:
    return RAYS + name.removeprefix(OURS) if name.startswith(OURS) else name
