"""Where a model is served: the forms of URL a person may write. Pure."""

from dataclasses import dataclass, replace
from urllib.parse import quote, unquote, urlsplit

from whet.errors import UsageError

_FORMS = "http://HOST:PORT/models/NAME, http://HOST:PORT/v2/models/NAME[/versions/V] or grpc://HOST:PORT/NAME"


@dataclass(frozen=True, slots=True)
class Address:
    """A server, and the model meant.

    Attributes:
        protocol: ``http`` or ``grpc``.
        tls: encrypted.
        host: name or address.
        port: number.
        model: name, or empty.
        version: of the model, or empty for the server's choice.
    """

    protocol: str
    tls: bool
    host: str
    port: int
    model: str = ""
    version: str = ""

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read a URL of a server or of a model on it.

        Raises:
            UsageError: a form that is not known; names those that are.
        """
        parts = urlsplit(url)
        scheme = parts.scheme.lower()
        try:
            port = parts.port
        except ValueError:
            port = -1
        if scheme not in ("http", "https", "grpc", "grpcs") or not parts.hostname or port == -1:
            raise UsageError(f"'{url}' names no service; write {_FORMS}")
        protocol = scheme.removesuffix("s")
        default = 8001 if protocol == "grpc" else 443 if scheme == "https" else 8000
        names = [unquote(part) for part in parts.path.split("/") if part]
        if protocol == "http" and names[:1] == ["v2"]:
            names = names[1:]
        if protocol == "http" and names:
            if names[0] != "models" or len(names) < 2:
                raise UsageError(f"'{url}' names no model; write {_FORMS}")
            names = names[1:]
        match names:
            case []:
                model = version = ""
            case [model]:
                version = ""
            case [model, "versions", version] | [model, "versions", version, "infer"]:
                pass
            case [model, "infer"]:
                version = ""
            case _:
                raise UsageError(f"'{url}' goes past the model; write {_FORMS}")
        return cls(protocol, scheme.endswith("s"), parts.hostname, port or default, model, version)

    def to(self, model: str, version: str = "") -> "Address":
        """Return the address of another model on the same server."""
        return replace(self, model=model, version=version)

    @property
    def authority(self) -> str:
        """``host:port``, an IPv6 host in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def path(self) -> str:
        """The model's path in the HTTP form of the protocol."""
        version = f"/versions/{quote(self.version, safe='')}" if self.version else ""
        return f"/v2/models/{quote(self.model, safe='')}{version}" if self.model else "/v2"

    @property
    def url(self) -> str:
        """The address as a URL that :meth:`parse` reads again, for messages."""
        scheme = self.protocol + ("s" if self.tls else "")
        place = "/models/" if self.protocol == "http" else "/"
        return f"{scheme}://{self.authority}" + (f"{place}{quote(self.model, safe='')}" if self.model else "")
