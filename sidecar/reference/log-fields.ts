// The fields of a line of the access log, in its order. Names that Istio has mean the same.

import type { Entry } from './entry.ts';

const always: Readonly<Record<string, string>> = {
  start_time: 'When the first byte of the request arrived (RFC 3339).',
  route_name: 'The rule of the route, or the upstream.',
  method: 'The method of the request.',
  path: 'The path as requested, without credentials in its query.',
  protocol: 'HTTP/1.0, HTTP/1.1 or HTTP/2; null for TCP.',
  response_code: 'The status of the response; 0 if none was sent.',
  response_flags: "Envoy's flag of what went wrong; - if nothing did.",
  response_code_details: "Envoy's words of how the response came about.",
  connection_termination_details: 'The same for TCP.',
  bytes_received: 'Bytes of the body from the client.',
  bytes_sent: 'Bytes of the body to the client.',
  duration: 'Milliseconds from the first byte of the request to the last of the response.',
  upstream_service_time: 'Milliseconds until the head of the response of the upstream; null without one.',
  x_forwarded_for: 'The header of that name, as forwarded.',
  user_agent: 'The header of that name.',
  request_id: 'The x-request-id of the request.',
  authority: 'Host, in its one spelling.',
  upstream_host: 'The address that the request was sent to.',
  upstream_cluster: 'The upstream, by its name.',
  upstream_local_address: 'Our address of the connection to the upstream.',
  downstream_local_address: 'The address that the client connected to.',
  downstream_remote_address: 'The address that connected to us.',
  requested_server_name: 'The server name of the TLS handshake.',
  upstream_transport_failure_reason: 'Why the upstream could not be reached.',
  decision: 'allow or deny by policy; - where none was evaluated.',
  decision_id: 'The id for `sallyport why`.',
  policy: 'The policy that decided.',
  shadow_policy: 'The policy that would decide with dry-run policies in force.',
  shadow_decision: 'What would be decided with dry-run policies in force.',
  audit_policy: 'The policy with the action AUDIT that matched.',
  request_auth_principal: 'The user of the token: issuer and subject.',
  upstream_request_attempt_count: 'How many times the request was sent.',
  peer_id: 'The SPIFFE ID of the peer; at a gateway the name in the certificate of the client.',
  peer_serial: 'The serial number of that certificate.',
  tls_group: 'The key-exchange group of the handshake with it.',
  tls_version: 'The version of TLS.',
  tls_cipher: 'The cipher of TLS.',
  tls_resumed: 'Always false: sessions are not resumed.',
};

const atGateway: Readonly<Record<string, string>> = {
  client_ip: 'The address of the client, behind trusted proxies.',
  client_id: 'The client by its API key or user name.',
  auth_method: 'How the client proved who it is.',
};

const noted: Readonly<Record<string, string>> = {
  cache: 'What an HTTPCache did: hit, miss and so on.',
  screening: 'The score of a RequestScreening, and the rules that matched.',
  validation: 'How the request violates its schema.',
  response_validation: 'How the response violates its schema.',
  grpc_method: 'The method that a GRPCJSONTranscoding called.',
  mcp: 'The messages of MCP in the request.',
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
