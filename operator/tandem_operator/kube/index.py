"""The objects of one kind by the job that they belong to. Pure: lists, events and own writes go in."""

from collections.abc import Iterable

from tandem_operator.kube.manifest import Manifest, labels_of, name_of, namespace_of, resource_version_of

JOB_LABEL = "tandem.dev/job"
"""Label of every child, with the name of its RLJob."""

JobKey = tuple[str, str]
"""Namespace and name of a job."""
_ObjectKey = tuple[str, str]
"""Namespace and name of an object."""


def job_of(manifest: Manifest) -> JobKey:
    """Return the job that an object belongs to by its label."""
    return (namespace_of(manifest), labels_of(manifest).get(JOB_LABEL, ""))


def version_number(resource_version: str) -> int:
    """Return a resourceVersion as the number that orders objects of one kind; 0 for one that is none.

    Since Kubernetes 1.35 clients may compare them (KEP-5504).
    """
    return int(resource_version) if resource_version.isdecimal() else 0


class ChildIndex:
    """What is known of the objects of one kind; each change returns the jobs that it touches."""

    def __init__(self) -> None:
        self._objects: dict[_ObjectKey, Manifest] = {}
        self._by_job: dict[JobKey, dict[str, Manifest]] = {}
        self._seen = 0
        """Every change up to this version has come in by a list or an event."""

    def __len__(self) -> int:
        return len(self._objects)

    def of_job(self, job: JobKey) -> tuple[Manifest, ...]:
        """Return the objects of a job, by name."""
        by_name = self._by_job.get(job, {})
        return tuple(by_name[name] for name in sorted(by_name))

    def named(self, job: JobKey, name: str) -> Manifest | None:
        """Return one object of a job."""
        return self._by_job.get(job, {}).get(name)

    def jobs(self) -> frozenset[JobKey]:
        """Return the jobs that have objects."""
        return frozenset(self._by_job)

    def fill(self, listed: Iterable[Manifest], resource_version: str) -> frozenset[JobKey]:
        """Take a whole list: what it does not hold is gone, except own writes that are newer than the list.

        A list that is older than what was seen comes from a restored etcd: then nothing known counts.
        """
        seen = version_number(resource_version)
        forgotten = self.clear() if seen < self._seen else frozenset()
        by_key = {_key(manifest): manifest for manifest in listed}
        lost = [known for key, known in self._objects.items() if key not in by_key and _version(known) <= seen]
        touched = [self._remove(known) for known in lost] + [self._put(manifest) for manifest in by_key.values()]
        self._seen = seen
        return forgotten.union(*touched)

    def clear(self) -> frozenset[JobKey]:
        """Forget everything."""
        touched = self.jobs()
        self._objects.clear()
        self._by_job.clear()
        self._seen = 0
        return touched

    def change(self, manifest: Manifest) -> frozenset[JobKey]:
        """Take an object that an event says was added or changed."""
        touched = self._put(manifest)
        self.advance(resource_version_of(manifest))
        return touched

    def delete(self, manifest: Manifest) -> frozenset[JobKey]:
        """Take an event that says an object is gone."""
        known = self._objects.get(_key(manifest))
        self.advance(resource_version_of(manifest))
        if known is None or _version(known) > _version(manifest):
            return frozenset()
        return self._remove(known)

    def remember(self, manifest: Manifest) -> None:
        """Take the answer to an own write before its event comes; nothing where the events are further already."""
        if _version(manifest) > self._seen and JOB_LABEL in labels_of(manifest):
            self._put(manifest)

    def advance(self, resource_version: str) -> None:
        """Take a bookmark: all changes up to a version have come in."""
        self._seen = max(self._seen, version_number(resource_version))

    def _put(self, manifest: Manifest) -> frozenset[JobKey]:
        """Store an object unless it is older than the known one; return the jobs touched."""
        known = self._objects.get(_key(manifest))
        if known is not None:
            if _version(known) > _version(manifest) or resource_version_of(known) == resource_version_of(manifest):
                return frozenset()
            self._remove(known)
        job = job_of(manifest)
        self._objects[_key(manifest)] = manifest
        self._by_job.setdefault(job, {})[name_of(manifest)] = manifest
        return frozenset({job} if known is None else {job, job_of(known)})

    def _remove(self, known: Manifest) -> frozenset[JobKey]:
        """Drop an object; return the job touched."""
        job = job_of(known)
        del self._objects[_key(known)]
        by_name = self._by_job[job]
        del by_name[name_of(known)]
        if not by_name:
            del self._by_job[job]
        return frozenset({job})


def _key(manifest: Manifest) -> _ObjectKey:
    """Return what an object is stored by."""
    return (namespace_of(manifest), name_of(manifest))


def _version(manifest: Manifest) -> int:
    """Return the version of an object as a number."""
    return version_number(resource_version_of(manifest))
