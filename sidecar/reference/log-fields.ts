// The fields of a line of the access log, in its order. Names that Istio has mean the same.

import type { Entry } from './entry.ts';

const always: Readonly<Record<string, string>> = {
  start_time: 'When the request began, or the TCP stream (RFC 3339).',
  route_name: 'The rule of the route; at a sidecar, the upstream, or `default` towards the app.',
  method: 'The method of the request.',
  path: 'The path that the app receives, without credentials in its query. Where RequestScreening found something, without its query.',
  protocol: 'HTTP/1.0, HTTP/1.1 or HTTP/2; null for TCP.',
  response_code: 'The status of the response; 0 if none was sent.',
  response_flags: "Envoy's flag of what went wrong; - if nothing did.",
  response_code_details: "How the response came about, in Envoy's words or ours.",
  connection_termination_details: 'The same for TCP.',
  bytes_received: 'Bytes of the body from the client; of the stream for TCP.',
  bytes_sent: 'Bytes of the body to the client; of the stream for TCP.',
  duration: 'Milliseconds from the first byte of the request to the end of the exchange.',
  upstream_service_time:
    'Milliseconds from sending the request upstream to the head of the response; null without one.',
  x_forwarded_for: 'The header of that name: at a gateway as forwarded, at a sidecar as received.',
  user_agent: 'The header of that name.',
  request_id: 'The x-request-id of the request.',
  trace_id: 'The trace ID of a valid traceparent (W3C Trace Context) of the request; else null.',
  authority: 'Host, in its one spelling; after a rewrite, the host that the app receives.',
  upstream_host: 'The address that the request was sent to.',
  upstream_cluster: 'The upstream, as Envoy names it: `outbound|15006||web`.',
  upstream_local_address: 'Our address of the connection to the upstream.',
  downstream_local_address: 'The address that the client connected to.',
  downstream_remote_address: 'The address that connected to us; with the PROXY protocol, the one that it names.',
  requested_server_name: 'The server name of the TLS handshake.',
  upstream_transport_failure_reason: 'Why the upstream could not be reached, or why its connection ended.',
  decision: 'allow or deny; - where nothing was decided.',
  decision_id: 'The name of the decision. At a sidecar, `sallyport why` explains one that was denied.',
  policy: 'The policy that decided; `none` where no policy did.',
  shadow_policy: 'The policy that would decide with dry-run policies in force.',
  shadow_decision: 'What would be decided with dry-run policies in force.',
  audit_policy: 'The policy with the action AUDIT that matched.',
  request_auth_principal: 'The user that a token or a login names: issuer, a slash and subject.',
  upstream_request_attempt_count: 'How many times it was tried to reach an upstream, failed tries included.',
  peer_id: 'The SPIFFE ID of the peer; at a gateway the name in the certificate of the client.',
  peer_serial: 'The serial number of that certificate.',
  tls_group:
    'The key-exchange group of the handshake with it; where it connected to us, only if one group is configured.',
  tls_version: 'The version of TLS.',
  tls_cipher: 'The cipher of TLS.',
  tls_resumed: 'false over TLS, since sessions are not resumed; else null.',
};

const atGateway: Readonly<Record<string, string>> = {
  client_ip: 'The address of the client, behind trusted proxies.',
  client_id: 'The client by its API key, its user name or the name in its certificate.',
  auth_method: 'How the client proved who it is: jwt, oidc, introspection, apiKey, basic or certificate.',
};

const noted: Readonly<Record<string, string>> = {
  cache: 'What an HTTPCache did: hit, stale, validated, collapsed, miss, bypass or refused.',
  screening: 'The score of a RequestScreening, and the rules that matched.',
  validation: 'How the request violates its schema.',
  response_validation: 'How the response violates its schema.',
  grpc_method: 'The method that a GRPCJSONTranscoding called.',
  mcp: 'The first three messages of MCP in the request: method, and what they name.',
};

const failed: Readonly<Record<string, string>> = {
  code: 'Our error code, for `sallyport explain`.',
  reason: 'What went wrong, as a sentence.',
};

/** Every field, and where it stands. */
export function logEntries(): readonly Entry[] {
  const all = [
    ['in every line', always],
    ['at a gateway', atGateway],
    ['where the capability is configured', noted],
    ['where something went wrong', failed],
  ] as const;
  return all.flatMap(([where, fields]) =>
    Object.entries(fields).map(([name, description]) => ({ name, description, facts: [['present', where]] as const })),
  );
}
