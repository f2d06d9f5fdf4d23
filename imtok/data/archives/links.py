"""Links inside an archive: the members that they lead to, without anything being extracted."""

import posixpath

from imtok.data.archives.names import printable
from imtok.data.archives.tar import FILE, HARD_LINK, LINKS, SPARSE, Member, ShardError

MOST_STEPS = 40  # from link to link, as file systems allow


def follow_links(members: list[Member]) -> list[Member]:
    """Members with the data that their links lead to; a link that leads to none of them stays a link.

    A hard link leads to the last file of that name before it, as it was when the archive was written, else to one after
    it; a symbolic link to the last file of that name of all.

    Args:
        members: What is in the archive, in order.

    Example:
        >>> members = [Member(b"a/1.jpg", 512, 9), Member(b"2.jpg", 0, 0, HARD_LINK, b"./a/1.jpg")]
        >>> follow_links(members)[1]
        Member(name=b'2.jpg', offset=512, size=9, kind='a file', target=b'')
    """
    if not any(member.kind in LINKS for member in members):
        return members
    found, place = list[Member](), dict[bytes, Member]()
    for member in members:
        if member.kind == HARD_LINK:
            before = place.get(_plain(member.target))
            member = _with_data(member, before) if before is not None else member
        found.append(member)
        place[_plain(member.name)] = member
    return [_followed(member, place) for member in found]


def require_file(member: Member, why_not: str) -> None:
    """Raise ShardError unless a member that is to be read is a file; ``why_not`` says why a link cannot be followed."""
    if member.kind == FILE:
        return
    what, cure = f"{member.kind}, which is not read", "write it again without it"
    if member.kind in LINKS:
        what = f"{member.kind} to {printable(member.target)!r}, {why_not}"
        cure = "write it again with tar --dereference --hard-dereference"
    elif member.kind == SPARSE:
        cure = "write it again without --sparse"
    raise ShardError(f"holds {printable(member.name)!r} as {what}; {cure}")


def _followed(link: Member, place: dict[bytes, Member]) -> Member:
    member = link
    for _ in range(MOST_STEPS):
        if member.kind not in LINKS:
            return _with_data(link, member)
        after = place.get(_target(member))
        if after is None:
            return link
        member = after
    return link


def _target(link: Member) -> bytes:
    """The name in the archive that a link leads to; one that is not in it where it leads out of it."""
    if link.kind == HARD_LINK:
        return _plain(link.target)
    if link.target.startswith(b"/"):
        return b"/"
    return _plain(posixpath.join(posixpath.dirname(link.name), link.target))


def _with_data(link: Member, member: Member) -> Member:
    if member.kind in LINKS:
        return link
    return Member(link.name, member.offset, member.size, member.kind)


def _plain(name: bytes) -> bytes:
    return posixpath.normpath(name.lstrip(b"/"))
