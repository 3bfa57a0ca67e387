"""The registry: etcd behind six verbs, leases, and fencing by transaction."""
