"""How the pods of a job speak to each other."""

from tandem_api.job.text import ObjectName
from tandem_api.resource import Resource


class TlsSpec(Resource):
    """Certificates of the HTTP APIs of trainers and servers."""

    secret_name: ObjectName | None = None
    """Secret of type kubernetes.io/tls in the job's namespace, with `ca.crt` beside `tls.crt` and `tls.key`: mounted
    into master, trainers and servers, which then speak HTTPS and believe only this authority. Pods reach each other by
    their addresses: the certificate must hold for `<job>.<namespace>.svc`, the name of the job's Service. Engines take
    a changed certificate over while they run, vLLM's servers when they start. Absent: HTTP."""
