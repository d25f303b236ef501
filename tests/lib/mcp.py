"""A small MCP client over streamable HTTP, enough to use basic-memory as a person's assistant would."""

import http.client
import json
import urllib.parse

PROTOCOL = "2025-06-18"


class McpError(Exception):
    """The server refused the call, or the tool reported an error."""


class McpClient:
    """`with McpClient(url) as mcp: mcp.call("write_note", title=…)`. One session; not for several threads at once."""

    def __init__(self, url, seconds=60):
        self.url = urllib.parse.urlsplit(url)
        self.seconds = seconds
        self.session = None
        self.last_id = 0

    def __enter__(self):
        self.server = self.request("initialize", {
            "protocolVersion": PROTOCOL, "capabilities": {},
            "clientInfo": {"name": "tenant-init-tests", "version": "1"},
        })
        self.notify("notifications/initialized")
        return self

    def __exit__(self, *_):
        try:
            self._send("DELETE", None)
        except OSError:
            pass  # the server may be gone on purpose

    def call(self, tool, **arguments):
        """Calls a tool and returns its text."""
        result = self.request("tools/call", {"name": tool, "arguments": arguments})
        text = "\n".join(part.get("text", "") for part in result.get("content", []))
        if result.get("isError"):
            raise McpError(f"{tool}: {text}")
        return text

    def tools(self):
        """Names of the tools the server has."""
        return [tool["name"] for tool in self.request("tools/list", {})["tools"]]

    def request(self, method, params):
        """One JSON-RPC request and its result."""
        self.last_id += 1
        answer = self._send("POST", {"jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params}, self.last_id)
        if "error" in answer:
            raise McpError(f"{method}: {answer['error']}")
        return answer["result"]

    def notify(self, method):
        self._send("POST", {"jsonrpc": "2.0", "method": method})

    def _send(self, verb, message, wanted=None):
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=self.seconds)
        try:
            headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
                       "MCP-Protocol-Version": PROTOCOL}
            if self.session:
                headers["Mcp-Session-Id"] = self.session
            connection.request(verb, self.url.path, json.dumps(message) if message else None, headers)
            answer = connection.getresponse()
            self.session = answer.getheader("Mcp-Session-Id") or self.session
            if answer.status >= 400:
                raise McpError(f"HTTP {answer.status}: {answer.read().decode(errors='replace')[:500]}")
            if wanted is None:
                answer.read()
                return None
            if answer.getheader("Content-Type", "").startswith("text/event-stream"):
                return self._event(answer, wanted)
            return json.loads(answer.read())
        finally:
            connection.close()

    @staticmethod
    def _event(stream, wanted):
        """The answer among the events of a stream; notifications before it are skipped."""
        data = []
        for line in stream:
            line = line.decode().rstrip("\r\n")
            if line.startswith("data:"):
                data.append(line[5:].lstrip())
            elif not line and data:
                message = json.loads("\n".join(data))
                data = []
                if message.get("id") == wanted:
                    return message
        raise McpError("the stream ended without an answer")
