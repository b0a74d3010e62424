"""The route of a request out of this machine: the proxies and certificates that its environment names.

HTTP libraries read these variables by themselves, and fail on some of them with an error that does not name the
variable: an IPv6 address in brackets in ``NO_PROXY``, a SOCKS proxy without the package for it, a missing file of
certificates. The clients of this server ask here instead.
"""

import os
import ssl
from collections.abc import Iterator
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from budget_tools.core.errors import ConfigurationError

_PORTS = {"http": 80, "https": 443}
_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
_SYSTEM = "The proxy in the settings of this system"


def client_options(url: str) -> dict[str, Any]:
    """Return the options of an ``httpx`` or ``httpx2`` client for one address, instead of ``trust_env``.

    Raises:
        ConfigurationError: a variable cannot be used; the sentence names it and shows no value that may be secret.
    """
    proxy = proxy_for(url)
    return {"proxy": proxy, "verify": _verification(url, proxy), "trust_env": False}


def check_route(url: str) -> None:
    """Check what can be known of the route to an address without reading certificates.

    Raises:
        ConfigurationError: a variable cannot be used.
    """
    if _is_encrypted(url, proxy_for(url)):
        _certificates()


def proxy_for(url: str) -> str | None:
    """Return the proxy for an address; ``None`` if there is no proxy, or if ``NO_PROXY`` excepts the address.

    Raises:
        ConfigurationError: the proxy cannot be used.
    """
    from urllib.request import getproxies  # imported here: it brings an HTTP client, which would slow every start

    proxies = getproxies()
    parts = urlsplit(url)
    scheme = next((each for each in (parts.scheme, "all") if proxies.get(each)), None)
    if scheme is None or any(_excepts(entry, parts) for entry in _words(proxies.get("no", ""))):
        return None
    return _checked_proxy(proxies[scheme].strip(), proxy_variable(scheme))


def proxy_variable(scheme: str) -> str:
    """Return the name of the variable that sets the proxy for a scheme, or ``all``."""
    names = (name for each in (scheme, "all") for name in (f"{each}_proxy", f"{each}_proxy".upper()))
    return next((name for name in names if os.environ.get(name)), _SYSTEM)


def _words(text: str) -> Iterator[str]:
    return (word for each in text.split(",") if (word := each.strip()))


def _excepts(entry: str, parts: SplitResult) -> bool:
    """Return whether an entry of ``NO_PROXY`` matches an address: a name and all below it, an IP address, a network."""
    scheme, separator, rest = entry.rpartition("://")
    if separator and scheme.lower() not in ("all", parts.scheme):
        return False
    named, _, port = rest.rpartition(":")
    if named and port.isdecimal() and (":" not in named or named.endswith("]")):
        if int(port) != (parts.port or _PORTS.get(parts.scheme)):
            return False
        rest = named
    bare = rest.replace("[", "").replace("]", "").lower()
    host = parts.hostname or ""
    try:
        return bare == "*" or ip_address(host) in ip_network(bare, strict=False)
    except ValueError:
        name = bare.lstrip("*").strip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))


def _checked_proxy(value: str, variable: str) -> str:
    address = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(address)
        is_usable = parts.scheme in _PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or not address.isprintable() or " " in address:
        raise ConfigurationError(
            f"{variable} is not the address of a proxy that can be used, such as http://proxy.example:3128: "
            "mend it, or add the host to NO_PROXY."
        )
    if address.lower().startswith("socks") and find_spec("socksio") is None:
        raise ConfigurationError(
            f"{variable} names a SOCKS proxy, for which the Python package socksio is missing: install it beside this "
            "server, name an http:// proxy, or add the host to NO_PROXY."
        )
    return address


def _is_encrypted(url: str, proxy: str | None) -> bool:
    return url.startswith("https:") or (proxy or "").startswith("https:")


def _certificates() -> tuple[str, Path] | None:
    """Return the variable that names the trusted certificates, and its path; ``None`` if none is set."""
    for variable, is_right, kind in (("SSL_CERT_FILE", Path.is_file, "file"), ("SSL_CERT_DIR", Path.is_dir, "folder")):
        if os.environ.get(variable):
            path = Path(os.environ[variable])
            if not is_right(path):
                raise ConfigurationError(
                    f"{variable} is {path}, which is not a {kind} that can be found: name one with the certificates to "
                    "trust, or leave the variable out."
                )
            return variable, path
    return None


def _verification(url: str, proxy: str | None) -> ssl.SSLContext | bool:
    if not _is_encrypted(url, proxy):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts no certificate, and reads none
    found = _certificates()
    if found is None:
        return True
    variable, path = found
    try:
        if variable == "SSL_CERT_DIR":
            return ssl.create_default_context(capath=path)
        return ssl.create_default_context(cafile=path)
    except OSError as exc:  # also raised for a file that is not in the PEM format
        raise ConfigurationError(
            f"{variable} is {path}, which cannot be read as certificates in the PEM format "
            f"({exc.strerror or exc}): mend it, or leave the variable out."
        ) from exc
