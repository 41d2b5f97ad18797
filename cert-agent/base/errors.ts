// One error class and one table for all refusals and failures. A code is stable: logs, JSON responses and tests contain
// it. Its row fixes the HTTP status, the gRPC status, Envoy's response flag and Envoy's value of
// `response_code_details`, so that no step invents its own.

import { withoutOpenssl } from './openssl-text.ts';

/** What a code means on the wire. `flag` and `details` follow Envoy's access log; `-` is 'no flag'. */
export interface CodeRow {
  readonly status: number;
  readonly grpc: number;
  readonly flag: string;
  readonly details: string;
}

const row = (status: number, grpc: number, flag: string, details: string): CodeRow =>
  Object.freeze({ status, grpc, flag, details });

/** Every code of the product. The order follows the path: configuration, identity, CA, agent, request, upstream. */
export const codes = Object.freeze({
  // configuration and start
  config_invalid: row(500, 13, '-', 'config_invalid'),
  config_unreadable: row(500, 13, '-', 'config_unreadable'),
  secret_exposed: row(500, 13, '-', 'secret_exposed'),
  usage: row(400, 3, '-', 'usage'),
  port_in_use: row(500, 13, '-', 'port_in_use'),
  listen_failed: row(500, 13, '-', 'listen_failed'),
  kubernetes_forbidden: row(503, 14, '-', 'kubernetes_forbidden'),
  kubernetes_invalid: row(503, 14, '-', 'kubernetes_invalid'),
  ready_timeout: row(503, 14, '-', 'ready_timeout'),
  app_not_started: row(500, 13, '-', 'app_not_started'),
  node_unsuitable: row(500, 13, '-', 'node_unsuitable'),
  internal: row(500, 13, '-', 'internal_error'),

  // identity: what can be wrong with a certificate, key or bundle
  spiffe_id_invalid: row(400, 3, '-', 'spiffe_id_invalid'),
  key_unreadable: row(500, 13, '-', 'key_unreadable'),
  key_mismatch: row(500, 13, '-', 'key_mismatch'),
  certificate_unreadable: row(500, 13, '-', 'certificate_unreadable'),
  bundle_invalid: row(500, 13, '-', 'bundle_invalid'),
  bundle_empty: row(500, 13, '-', 'bundle_empty'),
  svid_missing: row(403, 16, 'DPE', 'peer_certificate_missing'),
  plaintext_refused: row(403, 16, 'DPE', 'plaintext_refused'),
  svid_expired: row(403, 16, 'DPE', 'peer_certificate_expired'),
  svid_not_yet_valid: row(403, 16, 'DPE', 'peer_certificate_not_yet_valid'),
  svid_untrusted: row(403, 16, 'DPE', 'peer_certificate_untrusted'),
  svid_invalid: row(403, 16, 'DPE', 'peer_certificate_invalid'),
  svid_denied: row(403, 16, 'DPE', 'peer_certificate_revoked'),
  crl_invalid: row(500, 13, '-', 'crl_invalid'),
  crl_untrusted: row(500, 13, '-', 'crl_untrusted'),
  crl_expired: row(403, 16, 'DPE', 'crl_expired'),
  crl_missing: row(403, 16, 'DPE', 'crl_missing'),
  ocsp_invalid: row(502, 14, '-', 'ocsp_invalid'),
  ocsp_unavailable: row(502, 14, '-', 'ocsp_unavailable'),
  certificate_revoked: row(500, 13, '-', 'certificate_revoked'),

  // CA
  csr_invalid: row(400, 3, '-', 'csr_invalid'),
  body_too_large: row(413, 3, '-', 'request_payload_too_large'),
  body_invalid: row(400, 3, '-', 'body_invalid'),
  token_unknown: row(401, 16, '-', 'token_unknown'),
  token_expired: row(401, 16, '-', 'token_expired'),
  token_used: row(403, 7, '-', 'token_used'),
  kubernetes_token_invalid: row(401, 16, '-', 'kubernetes_token_invalid'),
  kubernetes_unavailable: row(503, 14, '-', 'kubernetes_unavailable'),
  id_reserved: row(403, 7, '-', 'id_reserved'),
  id_foreign: row(403, 7, '-', 'id_foreign'),
  id_denied: row(403, 7, '-', 'id_denied'),
  dns_name_invalid: row(400, 3, '-', 'dns_name_invalid'),
  dns_name_not_allowed: row(403, 7, '-', 'dns_name_not_allowed'),
  renewals_exhausted: row(429, 8, '-', 'renewals_exhausted'),
  ttl_out_of_range: row(400, 3, '-', 'ttl_out_of_range'),
  not_found: row(404, 5, '-', 'not_found'),
  method_not_allowed: row(405, 12, '-', 'method_not_allowed'),
  root_key_missing: row(409, 9, '-', 'root_key_missing'),
  issuer_unusable: row(409, 9, '-', 'issuer_unusable'),
  root_unusable: row(409, 9, '-', 'root_unusable'),
  rotation_refused: row(409, 9, '-', 'rotation_refused'),
  ca_exists: row(409, 6, '-', 'ca_exists'),
  ca_missing: row(500, 5, '-', 'ca_missing'),
  ca_running: row(409, 9, '-', 'ca_running'),
  passphrase_wrong: row(500, 13, '-', 'passphrase_wrong'),
  store_failed: row(503, 14, '-', 'store_failed'),
  store_missing: row(500, 13, '-', 'store_missing'),
  store_foreign: row(500, 13, '-', 'store_foreign'),
  ledger_behind: row(409, 9, '-', 'ledger_behind'),
  ledger_forked: row(409, 9, '-', 'ledger_forked'),
  backup_invalid: row(400, 3, '-', 'backup_invalid'),
  backup_failed: row(500, 13, '-', 'backup_failed'),
  ca_overloaded: row(503, 14, '-', 'ca_overloaded'),
  upgrade_required: row(426, 3, '-', 'upgrade_required'),
  acknowledgement_invalid: row(400, 3, '-', 'acknowledgement_invalid'),
  issuer_expired: row(503, 14, '-', 'issuer_expired'),

  // agent
  ca_unreachable: row(503, 14, '-', 'ca_unreachable'),
  ca_refused: row(502, 7, '-', 'ca_refused'),
  ca_answer_invalid: row(502, 13, '-', 'ca_answer_invalid'),
  token_missing: row(503, 14, '-', 'token_missing'),

  // the request's head and body (RFC 9112, RFC 9110)
  head_malformed: row(400, 3, 'DPE', 'http1.codec_error'),
  head_invalid_characters: row(400, 3, 'DPE', 'http1.invalid_characters'),
  head_invalid_url: row(400, 3, 'DPE', 'http1.invalid_url'),
  head_too_large: row(431, 8, 'DPE', 'http1.headers_too_large'),
  head_too_many_fields: row(431, 8, 'DPE', 'http1.too_many_headers'),
  head_timeout: row(408, 4, 'DPE', 'request_head_timeout'),
  version_unsupported: row(505, 12, 'DPE', 'http1.unsupported_version'),
  length_ambiguous: row(400, 3, 'DPE', 'http1.content_length_and_chunked_not_allowed'),
  length_invalid: row(400, 3, 'DPE', 'http1.invalid_content_length'),
  transfer_encoding_invalid: row(501, 12, 'DPE', 'http1.invalid_transfer_encoding'),
  transfer_encoding_ambiguous: row(400, 3, 'DPE', 'http1.invalid_transfer_encoding'),
  chunk_malformed: row(400, 3, 'DPE', 'http1.invalid_chunk'),
  host_missing: row(400, 3, 'DPE', 'missing_host_header'),
  host_invalid: row(400, 3, 'DPE', 'http1.invalid_host'),
  path_invalid: row(400, 3, 'DPE', 'path_normalization_failed'),
  method_invalid: row(400, 3, 'DPE', 'http1.invalid_method'),
  connect_unsupported: row(501, 12, 'DPE', 'upgrade_failed'),
  upgrade_unsupported: row(501, 12, '-', 'upgrade_failed'),
  expectation_failed: row(417, 3, 'DPE', 'expectation_failed'),
  http2_protocol: row(400, 13, 'DPE', 'http2.protocol_error'),
  http2_frame_size: row(400, 13, 'DPE', 'http2.frame_size_error'),
  http2_stream_closed: row(400, 13, 'DPE', 'http2.stream_closed'),
  http2_flow_control: row(400, 13, 'DPE', 'http2.flow_control_error'),
  http2_compression: row(400, 13, 'DPE', 'http2.compression_error'),
  http2_flood: row(400, 8, 'DPE', 'http2.flood'),
  tcp_idle: row(408, 4, 'SI', 'tcp_idle_timeout'),
  stream_idle: row(504, 4, 'SI', 'stream_idle_timeout'),
  stream_stalled: row(504, 4, 'SI', 'stream_stall_timeout'),

  // may this pass, and where to
  not_cached: row(504, 4, '-', 'not_cached'),
  not_ready: row(503, 14, 'UH', 'not_ready'),
  draining: row(503, 14, 'UH', 'draining'),
  overloaded: row(503, 14, 'UO', 'overflow'),
  memory_full: row(503, 14, 'OM', 'overload'),
  csrf_origin_mismatch: row(403, 7, '-', 'csrf_origin_mismatch'),
  request_invalid: row(400, 3, '-', 'request_invalid'),
  operation_unknown: row(404, 5, '-', 'operation_unknown'),
  operation_method_unknown: row(405, 12, '-', 'operation_method_unknown'),
  content_type_unsupported: row(415, 3, '-', 'content_type_unsupported'),
  content_encoding_unsupported: row(415, 3, '-', 'content_encoding_unsupported'),
  content_encoding_invalid: row(400, 3, '-', 'content_encoding_invalid'),
  json_syntax: row(400, 3, '-', 'json_syntax'),
  json_not_utf8: row(400, 3, '-', 'json_not_utf8'),
  json_too_deep: row(400, 3, '-', 'json_too_deep'),
  json_duplicate_key: row(400, 3, '-', 'json_duplicate_key'),
  json_lone_surrogate: row(400, 3, '-', 'json_lone_surrogate'),
  json_number_out_of_range: row(400, 3, '-', 'json_number_out_of_range'),
  form_invalid: row(400, 3, '-', 'form_invalid'),
  validation_too_costly: row(400, 8, '-', 'validation_too_costly'),
  attack_detected: row(403, 7, '-', 'attack_detected'),
  screening_too_costly: row(400, 8, '-', 'screening_too_costly'),
  mcp_message_invalid: row(400, 3, '-', 'mcp_message_invalid'),
  mcp_header_mismatch: row(400, 3, '-', 'mcp_header_mismatch'),
  mcp_session_unknown: row(404, 5, '-', 'mcp_session_unknown'),
  grpc_web_malformed: row(400, 3, '-', 'grpc_web_malformed'),
  policy_denied: row(403, 7, '-', 'rbac_access_denied_matched_policy'),
  misdirected: row(421, 14, '-', 'misdirected_request'),
  client_certificate_refused: row(403, 16, 'DPE', 'client_certificate_refused'),
  client_certificate_revoked: row(403, 16, 'DPE', 'client_certificate_revoked'),
  rule_broken: row(500, 13, '-', 'rule_not_served'),
  redirect_loop: row(500, 13, '-', 'redirect_loop'),
  // GRPCRoute `backendRefs`: UNAVAILABLE, where HTTP has 500.
  backend_invalid: row(500, 14, 'NC', 'cluster_not_found'),
  url_too_long: row(414, 3, 'DPE', 'http1.url_too_long'),
  body_too_slow: row(408, 4, 'DPE', 'request_body_timeout'),
  reply_too_slow: row(408, 4, 'DPE', 'response_body_timeout'),
  no_route: row(404, 12, 'NR', 'route_not_found'),
  rate_limited: row(429, 8, 'RL', 'local_rate_limited'),
  concurrency_limited: row(429, 8, 'RL', 'concurrency_limited'),
  redis_unavailable: row(503, 14, '-', 'redis_unavailable'),
  jwt_invalid: row(401, 16, '-', 'jwt_authn_access_denied'),
  jwt_expired: row(401, 16, '-', 'jwt_authn_access_denied{Jwt_is_expired}'),
  jwt_not_yet_valid: row(401, 16, '-', 'jwt_authn_access_denied{Jwt_not_yet_valid}'),
  jwt_issuer_unknown: row(401, 16, '-', 'jwt_authn_access_denied{Jwt_issuer_is_not_configured}'),
  jwt_audience: row(403, 7, '-', 'jwt_authn_access_denied{Audiences_in_Jwt_are_not_allowed}'),
  jwks_unavailable: row(401, 16, '-', 'jwt_authn_access_denied{Jwks_remote_fetch_is_failed}'),
  txn_token_invalid: row(401, 16, '-', 'txn_token_invalid'),
  txn_token_too_large: row(431, 8, '-', 'txn_token_too_large'),
  jwt_missing: row(401, 16, '-', 'jwt_authn_access_denied{Jwt_is_missing}'),
  introspection_refused: row(401, 16, '-', 'introspection_refused'),
  introspection_failed: row(503, 14, '-', 'introspection_failed'),
  api_key_missing: row(401, 16, '-', 'missing_api_key'),
  api_key_unknown: row(401, 16, '-', 'unknown_api_key'),
  basic_auth_missing: row(401, 16, '-', 'no_credential_for_basic_auth'),
  basic_auth_wrong: row(401, 16, '-', 'invalid_credential_for_basic_auth'),
  session_invalid: row(401, 16, '-', 'oidc_session_invalid'),
  oidc_state_invalid: row(400, 3, '-', 'oidc_state_invalid'),
  oidc_login_refused: row(403, 7, '-', 'oidc_login_refused'),
  oidc_provider_failed: row(502, 13, '-', 'oidc_provider_failed'),
  oidc_provider_unavailable: row(503, 14, '-', 'oidc_provider_unavailable'),
  ext_authz_denied: row(403, 7, 'UAEX', 'ext_authz_denied'),
  ext_authz_failed: row(403, 7, 'UAEX', 'ext_authz_error'),

  // upstream
  upstream_unresolved: row(503, 14, 'UH', 'no_healthy_upstream'),
  upstream_unhealthy: row(503, 14, 'UH', 'no_healthy_upstream'),
  upstream_connect: row(503, 14, 'UF', 'upstream_reset_before_response_started{connection_failure}'),
  upstream_connect_timeout: row(503, 14, 'UF', 'upstream_reset_before_response_started{connection_timeout}'),
  upstream_tls: row(503, 14, 'UF', 'upstream_reset_before_response_started{tls_failure}'),
  upstream_identity: row(503, 14, 'UF', 'upstream_reset_before_response_started{identity_mismatch}'),
  upstream_refused_us: row(503, 14, 'UF', 'upstream_reset_before_response_started{closed_after_handshake}'),
  upstream_closed: row(503, 14, 'UC', 'upstream_reset_before_response_started{connection_termination}'),
  upstream_refused_stream: row(503, 14, 'UR', 'upstream_reset_before_response_started{remote_refused_stream_reset}'),
  upstream_reset: row(503, 14, 'UR', 'upstream_reset_before_response_started{remote_reset}'),
  upstream_cut: row(502, 14, 'UC', 'upstream_reset_after_response_started{connection_termination}'),
  upstream_protocol: row(502, 13, 'UPE', 'upstream_reset_before_response_started{protocol_error}'),
  upstream_answer_malformed: row(502, 13, 'UPE', 'upstream_reset_after_response_started{protocol_error}'),
  grpc_response_too_large: row(502, 8, 'UPE', 'grpc_response_too_large'),
  upstream_head_too_large: row(502, 13, 'UPE', 'http1.headers_too_large'),
  upstream_response_timeout: row(504, 4, 'UT', 'upstream_response_timeout'),
  upstream_per_try_timeout: row(504, 4, 'UT', 'upstream_per_try_timeout'),
}) satisfies Record<string, CodeRow>;

/** A stable code: logs, answers and tests have it. A new one needs a row in ARCHITECTURE.md (a test holds this). */
export type Code = keyof typeof codes;

/** One problem in a file that a person wrote. `line` and `column` count from 1. */
export interface Problem {
  readonly file: string;
  readonly line: number;
  readonly column: number;
  readonly message: string;
  readonly hint?: string;
}

/** What an error says besides its sentence. Like the sentence, it has no secret. */
export interface ErrorDetail {
  /** What the operator can do next. */
  readonly hint?: string;
  readonly cause?: unknown;
  /** With `config_invalid`: all problems, not only the first. */
  readonly problems?: readonly Problem[];
}

/**
 * The only error that leaves a step. `message` is a sentence that contains the offending value and no secret. It goes
 * to the log and the operator, never to a client of the service. Bad data throws this; a programming error throws
 * `TypeError`.
 */
export class SallyportError extends Error {
  readonly code: Code;
  readonly hint: string | undefined;
  readonly problems: readonly Problem[];

  constructor(code: Code, message: string, detail: ErrorDetail = {}) {
    super(message, detail.cause === undefined ? undefined : { cause: detail.cause });
    this.name = 'SallyportError';
    this.code = code;
    this.hint = detail.hint;
    this.problems = detail.problems ?? [];
  }

  /** The row of the table: status, gRPC status, flag, details. */
  get row(): CodeRow {
    return codes[this.code];
  }
}

/** `error` as a SallyportError: itself, or wrapped under `code` with `what` in front of its message. */
export function asSallyportError(error: unknown, code: Code, what: string): SallyportError {
  if (error instanceof SallyportError) return error;
  return new SallyportError(code, `${what}: ${reasonOf(error)}`, { cause: error });
}

/** The text of any thrown value, on one line, without OpenSSL's own wording. */
export function reasonOf(error: unknown): string {
  const text = withoutOpenssl(error instanceof Error ? error.message : String(error));
  return text.replace(/\s+/g, ' ').trim();
}

/** The `code` of a Node system error (`ENOENT`, `EADDRINUSE`), or undefined. */
export function errnoOf(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** `file:line:column: message (hint)`, the format of compilers that editors understand. */
export function formatProblem(problem: Problem): string {
  const hint = problem.hint === undefined ? '' : ` (${problem.hint})`;
  return `${problem.file}:${problem.line}:${problem.column}: ${problem.message}${hint}`;
}
