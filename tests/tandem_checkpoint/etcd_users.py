"""Users of a real etcd."""

from etcd3aio import Etcd3Client
from etcd3aio.auth import PermissionType
from etcd3aio.kv import prefix_range_end

USER = "tandem"
PASSWORD = "correct horse"
PREFIX = "/tandem/v1/"


async def forbid_strangers(client: Etcd3Client) -> None:
    """Have etcd ask for a user: `root`, who may do everything, and ours, who may read and write our keys."""
    auth = client.auth
    assert auth is not None
    await auth.role_add("root")
    await auth.user_add("root", "root")
    await auth.user_grant_role("root", "root")
    await auth.role_add(USER)
    end = prefix_range_end(PREFIX)
    await auth.role_grant_permission(USER, PREFIX, end, perm_type=PermissionType.READWRITE)
    await auth.user_add(USER, PASSWORD)
    await auth.user_grant_role(USER, USER)
    await auth.auth_enable()
