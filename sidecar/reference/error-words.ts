// What each error code means to people, and what they can do. A code without a row does not compile.

import { type Code, codes } from '../../cert-agent/base/errors.ts';
import type { Entry } from './entry.ts';

type Words = readonly [means: string, fix: string];

const client = 'Fix the client.';
const backend = 'Fix the upstream.';
const log = 'The log says what is wrong, and where.';

const words: Readonly<Record<Code, Words>> = {
  config_invalid: [
    'A file of the configuration, or an option, is not valid.',
    'The message says what is wrong; for a file, with line and column.',
  ],
  config_unreadable: ['A file of the configuration cannot be read.', 'Check its path and its permissions.'],
  secret_exposed: [
    'A file with a secret can be read or changed by others.',
    'Run chmod 600 on it. In Kubernetes, set defaultMode: 0440 and an fsGroup.',
  ],
  usage: ['The command was called wrongly.', 'The message says what is wrong; --help shows the options.'],
  port_in_use: ['Another process listens on the port.', 'End that process, or choose another port.'],
  listen_failed: [
    'A port or socket cannot be listened on.',
    'Check the address, and the right to use ports below 1024.',
  ],
  ready_timeout: [
    '`sallyport exec` waited in vain for the sidecar to be ready.',
    '`sallyport doctor` looks for the cause; --ready-timeout sets the time.',
  ],
  app_not_started: ['`sallyport exec` could not start the app.', 'Check its path and its permissions.'],
  node_unsuitable: [
    'This Node cannot run Sallyport.',
    'Use the Node that `npm run setup` and the container image install.',
  ],
  internal: ['An error of Sallyport itself.', 'Report it, with the lines of the log around it.'],

  spiffe_id_invalid: ['A text is no SPIFFE ID.', 'Write spiffe://TRUST-DOMAIN/PATH.'],
  key_unreadable: [
    'A private key cannot be read, or cannot sign what it is needed for.',
    'The message says which. The file must be PEM.',
  ],
  key_mismatch: ['A key and its certificate do not belong together.', 'Name the files of one pair.'],
  certificate_unreadable: ['A certificate cannot be read.', 'Check that the file is PEM with certificates.'],
  bundle_invalid: ['A bundle or a deny list is not valid.', 'The message names the file and what is wrong in it.'],
  bundle_empty: ['A bundle has no root.', 'Name a PEM file with the roots of the trust domain.'],
  svid_missing: ['The peer has presented no certificate.', 'Let it call through its sidecar, or with an SVID.'],
  plaintext_refused: [
    'The peer spoke plaintext on a STRICT port.',
    'Let it call through its sidecar; during a move, a PeerAuthentication with PERMISSIVE accepts both.',
  ],
  svid_expired: [
    "A certificate has expired: the peer's, or our own.",
    'Check the agent that renews it, and the clocks of both machines.',
  ],
  svid_not_yet_valid: ["The peer's certificate is not valid yet.", 'Check the clocks of both machines.'],
  svid_untrusted: [
    "No root that we trust leads to the peer's certificate.",
    'Check that both have the same bundle; for another trust domain, name its bundle in federatedBundles.',
  ],
  svid_invalid: [
    'A certificate breaks a rule of SPIFFE, or is of another trust domain than ours.',
    '`sallyport inspect` shows the result of every rule.',
  ],
  svid_denied: [
    'The certificate or its identity is revoked.',
    '`sallyport ca allow` takes an identity back. A certificate stays revoked: the workload needs a new join token.',
  ],
  crl_invalid: ['A CRL cannot be read.', 'Check that the file is a CRL in PEM or DER.'],
  crl_untrusted: [
    'No trusted issuer has signed the CRL, or it is older than the one that we have.',
    'Use the current CRL of a CA that is trusted.',
  ],
  crl_expired: ['The CRL of the CA is older than its nextUpdate.', 'Fetch a new one, and replace the file.'],
  crl_missing: ['There is no CRL of the CA that issued a certificate.', 'Add the CRL of that CA to the others.'],
  ocsp_invalid: ['An OCSP response cannot be read, or is not valid.', 'Check the responder.'],
  ocsp_unavailable: [
    'The OCSP responder gives no response that can be used.',
    'Check that this machine reaches it. The log says more.',
  ],
  certificate_revoked: [
    "The OCSP responder says that a listener's certificate is revoked.",
    'Replace the certificate.',
  ],

  csr_invalid: [
    'The certificate request, or its key, is not valid.',
    'Use `sallyport agent`, or the form of /v1/openapi.json.',
  ],
  body_too_large: [
    'A body is larger than the limit.',
    'Send less, or raise limits.bodyBytes or the limit of the policy. Those of the CA and the admin port are fixed.',
  ],
  body_invalid: ['A body is not what is expected.', 'The message says what is wrong in it.'],
  token_unknown: [
    'The CA does not know the join token.',
    'Copy the whole token, or make a new one: `sallyport ca token create`.',
  ],
  token_expired: ['The join token has expired.', 'Make a new one: `sallyport ca token create`.'],
  token_used: ['The join token was used with another key.', 'Make a new one for each workload.'],
  kubernetes_token_invalid: [
    'The service-account token is not valid.',
    'Use the token of a projected volume, with the audience of the CA. The message says why it is refused.',
  ],
  id_reserved: [
    'The SPIFFE ID is the trust domain itself, or belongs to the CA.',
    'Choose a path that does not begin with /sallyport/.',
  ],
  kubernetes_unavailable: [
    "The cluster's API server does not answer: the CA cannot verify tokens, or the gateway's documents are old.",
    'The log says why.',
  ],
  kubernetes_forbidden: [
    'RBAC does not let the gateway read a kind of objects; the last complete state stays in force.',
    'Grant `list` and `watch`; the log names the kind.',
  ],
  kubernetes_invalid: [
    "The API server's answer is not valid, or too large; the last complete state stays in force.",
    'The log names the kind and the reason.',
  ],
  id_foreign: ['The SPIFFE ID is of another trust domain.', "Use the CA's own trust domain."],
  id_denied: [
    'The identity is on the deny list, or its certificate is revoked.',
    '`sallyport ca allow` takes an identity off the list. After that, it needs a new join token.',
  ],
  dns_name_invalid: [
    'A name is no DNS name for a certificate, or there are too many.',
    'Write a name, or `*.` and a name.',
  ],
  dns_name_not_allowed: ['No operator has allowed the DNS name.', '`sallyport ca dns allow` allows it.'],
  renewals_exhausted: [
    'Too many valid certificates come from one join token or one pod.',
    'Wait until older ones expire, or make a new join token. If the workload renews less often, its key may be stolen.',
  ],
  ttl_out_of_range: ['A lifetime is outside of its bounds.', 'The hint has the bounds.'],
  not_found: [
    'The page does not exist, or the CA has no such certificate, token or DNS name.',
    'GET / on the admin port lists its pages; `sallyport ca ls` lists certificates.',
  ],
  method_not_allowed: [
    'The method is not allowed here.',
    'Use another method. For a page, the Allow header lists them; a gateway refuses TRACE.',
  ],
  root_key_missing: [
    "The root's key is not where the CA looks for it.",
    'Name it with --root-key. With an external root, use `sallyport ca issuer request`.',
  ],
  issuer_unusable: ['The certificate cannot be our issuer.', 'The message says which requirement it does not meet.'],
  root_unusable: ['The certificate cannot be our root.', 'The message says which requirement it does not meet.'],
  rotation_refused: [
    'The rotation cannot take this step now, or the step would cut off workloads.',
    '`sallyport ca rotate status` shows what is under way, and who is behind.',
  ],
  ca_exists: ['The directory has a CA, or files of something else.', 'Choose another directory.'],
  ca_missing: [
    'The directory has no CA, or one without all its files.',
    'The hint has the command: `sallyport ca init`, `ca issuer install` or `ca restore`.',
  ],
  ca_running: ['Another process uses the directory of the CA.', 'Reach it with --socket, or stop it first.'],
  passphrase_wrong: [
    'The passphrase does not open the key, or there is none.',
    'Check SALLYPORT_CA_PASSPHRASE or --passphrase-file.',
  ],
  store_failed: ["The CA's store cannot be read or written.", "Check the disk. The CA's log says why."],
  store_missing: ["The CA's store is lost.", 'Restore a backup: `sallyport ca restore`.'],
  store_foreign: ['The store belongs to another CA.', 'Restore CA and store from the same backup.'],
  ledger_behind: [
    'The ledger ends before a record that the CA signed, or that an agent has seen.',
    'Restore a newer backup. cert-agent/ca/OPERATING.md says when to use --force.',
  ],
  ledger_forked: [
    'The ledger is not the one that the CA wrote.',
    'Treat it as an attack, as cert-agent/ca/OPERATING.md describes.',
  ],
  backup_invalid: ['The directory is no complete backup.', 'Use another backup.'],
  backup_failed: ['The backup could not be written.', 'The message says why; try again.'],
  ca_overloaded: ['The CA has too many requests or connections, or is stopping.', 'Agents try again by themselves.'],
  upgrade_required: ['The page is a stream, which needs Upgrade.', 'Use `sallyport agent`.'],
  acknowledgement_invalid: ['An agent sent an acknowledgement that is not valid, or too many.', 'Update the agent.'],
  issuer_expired: [
    "The CA's intermediate has expired, or is about to.",
    'Make a new one: `sallyport ca rotate issuer`.',
  ],

  ca_unreachable: ['The CA cannot be reached, or does not run.', 'Check its address or --socket, and that it runs.'],
  ca_refused: ['The CA has refused the request.', "The message ends with the CA's code: explain that one."],
  ca_answer_invalid: [
    "The CA's response is not valid, or is older than the last one.",
    'Check that the URL is that of a Sallyport CA; after a restore, see cert-agent/ca/OPERATING.md.',
  ],
  token_missing: [
    'There is no join token or service-account token yet.',
    'Put one where tokenFile or kubernetesTokenFile points.',
  ],

  head_malformed: ['The head of the request breaks the grammar of HTTP, or has a header in two spellings.', client],
  head_invalid_characters: ['The head of the request has characters that are not allowed.', client],
  head_invalid_url: ["The request's target is not valid for its method.", client],
  head_too_large: ['The head of the request is larger than limits.headBytes.', 'Send less, or raise the limit.'],
  head_too_many_fields: ['The request has more fields than limits.headFields.', 'Send fewer, or raise the limit.'],
  head_timeout: ['The head of the request took longer than limits.head.', 'Check the client and its network.'],
  version_unsupported: ['The request line has a version of HTTP other than 1.0 and 1.1.', client],
  length_ambiguous: ['The request states its length twice, or is HTTP/1.0 with Transfer-Encoding.', client],
  length_invalid: ['The Content-Length of the request is not valid, or CONNECT has a body.', client],
  transfer_encoding_invalid: ['The transfer coding of the request is not supported.', 'Use chunked alone.'],
  transfer_encoding_ambiguous: ['The transfer codings of the request can be read in two ways.', client],
  chunk_malformed: ['A chunk of the request breaks the grammar of HTTP.', client],
  host_missing: ['The request has no Host.', client],
  host_invalid: [
    'The Host of the request is not valid, or there are two.',
    'Fix the client. The admin port takes loopback names only, and no requests of web pages.',
  ],
  path_invalid: [
    'The path of the request cannot be normalized.',
    'Send a path without control characters and broken escapes.',
  ],
  method_invalid: ['The method of the request is not valid here.', client],
  connect_unsupported: ['CONNECT is not allowed here.', 'Use an outbound port, with the host and port of an upstream.'],
  upgrade_unsupported: [
    'No tunnel is possible: the upstream has none, or a policy must read the request.',
    'Use an upstream with HTTP/1.1, or with extended CONNECT of HTTP/2 (RFC 8441).',
  ],
  expectation_failed: ['The request expects something else than 100-continue.', client],
  http2_protocol: ['The client breaks the protocol of HTTP/2.', client],
  http2_frame_size: ['A frame of HTTP/2 has a wrong size.', client],
  http2_stream_closed: ['A frame of HTTP/2 is for a stream that has ended.', client],
  http2_flow_control: ['The client sends more than the window of HTTP/2 allows.', client],
  http2_compression: ['A head of HTTP/2 cannot be decompressed.', client],
  http2_flood: ['The client cancels too many requests, or sends too many control frames.', client],
  tcp_idle: ['A TCP stream had no byte for limits.tcpIdle.', 'Send keep-alives, or raise the limit.'],
  stream_idle: ['No byte moved for limits.streamIdle.', 'Find out which side is silent, or raise the limit.'],
  stream_stalled: ['Bytes waited for limits.streamStall and none was taken.', 'Find out why the reader does not read.'],

  not_cached: ['The client accepts a stored response only (only-if-cached), and there is none.', client],
  not_ready: ['There is no valid certificate, bundle or configuration yet.', 'The log says what is waited for.'],
  draining: ['The process is ending.', 'Try again: another instance responds.'],
  overloaded: [
    'Too many connections, requests, passwords or bodies are in flight or waiting.',
    'The message names the limit.',
  ],
  memory_full: [
    'Too many bytes wait for slow readers (limits.heldBytes).',
    'Find the slow readers, or raise the limit.',
  ],
  csrf_origin_mismatch: [
    'Another site made the browser send the request.',
    'Name the origin in csrf.additionalOrigins if it is yours.',
  ],
  request_invalid: ['The request does not match the schema of its API.', 'The response says what does not match.'],
  operation_unknown: ['The API has no such path.', 'Check the path, or the document.'],
  operation_method_unknown: ['The API has the path, but not for this method.', 'Check the method, or the document.'],
  content_type_unsupported: ['The policy or API does not take a body of this Content-Type.', client],
  content_encoding_unsupported: [
    'The Content-Encoding of the request cannot be read here.',
    'Send gzip, br, deflate or zstd. For MCP and GRPCJSONTranscoding send none.',
  ],
  content_encoding_invalid: ['The body does not match its Content-Encoding.', client],
  json_syntax: ['The body is no JSON.', client],
  json_not_utf8: ['The JSON is not UTF-8.', client],
  json_too_deep: ['The JSON is nested too deep.', client],
  json_duplicate_key: ['An object of the JSON has a key twice.', client],
  json_lone_surrogate: ['A string of the JSON has half of a character.', client],
  json_number_out_of_range: ['A number of the JSON is not one that a double holds exactly.', client],
  form_invalid: ['The form cannot be read.', client],
  validation_too_costly: [
    'Comparing the request with its schema takes too long.',
    'Send less, or simplify the schema.',
  ],
  attack_detected: [
    'RequestScreening has seen an attack.',
    'The log names the rules that matched. If it is a false alarm, add an exclusion.',
  ],
  screening_too_costly: [
    'Screening the request takes longer than timeLimitMs, or it has too many values.',
    'Send less, or raise timeLimitMs.',
  ],
  mcp_message_invalid: ['The body is no message of MCP, or is missing.', client],
  mcp_header_mismatch: ['A header of MCP does not match the message.', client],
  mcp_session_unknown: [
    "The MCP session, or the event to resume from, is not this caller's.",
    'Initialize a new session.',
  ],
  grpc_web_malformed: ['The body is no gRPC-Web, or is truncated.', client],
  policy_denied: [
    'A policy refuses the request.',
    'At a sidecar, `sallyport why <decision_id>` says which, and what would allow it. At a gateway the log names the policy.',
  ],
  misdirected: ['The host belongs to another listener than the connection.', 'Clients try again on a new connection.'],
  client_certificate_refused: [
    "The client's certificate is missing, not valid or expired.",
    'The log has the listener and the reason.',
  ],
  client_certificate_revoked: ["A CRL revokes the client's certificate.", 'Issue a new certificate.'],
  rule_broken: [
    'The rule, a policy for it, or its filter cannot be served.',
    '`sallyport gateway status` says what is wrong.',
  ],
  redirect_loop: ['The redirect of the rule leads back to the same URL.', 'Change the filter of the route.'],
  backend_invalid: ['The rule has no backend that can be used.', '`sallyport gateway status` says what is wrong.'],
  url_too_long: ['The target is longer than limits.urlBytes.', 'Send less, or raise the limit.'],
  body_too_slow: ['The body comes more slowly than limits.slowBytesPerSecond.', 'Check the client and its network.'],
  reply_too_slow: [
    'The response is taken more slowly than limits.slowBytesPerSecond.',
    'Check the client and its network.',
  ],
  no_route: ['No route or upstream matches the request.', 'Check Host and path, and the routes or upstreams.'],
  rate_limited: ['A rate limit is reached.', 'Wait as long as the response says, or raise the limit.'],
  concurrency_limited: ['A limit of requests in flight is reached.', 'Wait for responses, or raise the limit.'],
  redis_unavailable: [
    'The Redis of gateway.yaml does not respond. Logins fail, and each gateway counts its own limits.',
    'Check that it runs, and redis.timeout.',
  ],
  jwt_invalid: ['The token is not valid, or the request has two.', log],
  jwt_expired: ['The token has expired.', 'Get a new one.'],
  jwt_not_yet_valid: ['The token is not valid yet.', 'Check the clocks of the issuer and of this machine.'],
  jwt_issuer_unknown: [
    'The issuer of the token is not the one of the rule.',
    'Name the issuer, letter by letter as in the token.',
  ],
  jwt_audience: ['The token is for another audience.', 'Name the audience, or get a token for this one.'],
  jwks_unavailable: [
    "The issuer's keys could not be fetched, or none of them can be used.",
    'Check that this machine reaches their URL; the log says more.',
  ],
  txn_token_invalid: ['The transaction token of the gateway is not valid.', log],
  txn_token_too_large: [
    'The transaction token would be too large.',
    'Let the issuer put fewer claims into its tokens.',
  ],
  jwt_missing: ['The request has no token.', 'Send one as the policy demands.'],
  introspection_refused: ['The authorization server does not confirm the token.', 'Get a new one.'],
  introspection_failed: [
    'The authorization server gives no valid response, or has too many requests.',
    'Check that this machine reaches it; the log says more.',
  ],
  api_key_missing: ['The request has no API key.', 'Send one where extractFrom says.'],
  api_key_unknown: [
    'The API key is in no Secret of the policy, or the request has two keys.',
    'Check the key, and the Secret.',
  ],
  basic_auth_missing: ['The request has no user and password.', 'Send Authorization: Basic.'],
  basic_auth_wrong: ['User or password is wrong.', 'Check them against the Secret.'],
  session_invalid: ['The request has no login session, or it has ended.', 'Log in again.'],
  oidc_state_invalid: [
    'The callback is not of a login that this browser began, or came too late or twice.',
    'Log in again.',
  ],
  oidc_login_refused: ['The OpenID provider refused the login.', log],
  oidc_provider_failed: ["The OpenID provider's response is not valid, or too large for a session.", log],
  oidc_provider_unavailable: [
    'The OpenID provider, or the process that keeps logins, does not respond.',
    'Check that this machine reaches the provider. The log says more.',
  ],
  ext_authz_denied: ['The external authorizer refuses the request.', 'Ask it why: its log has the request.'],
  ext_authz_failed: ['The external authorizer gives no valid response.', 'Check that it runs, and its timeout.'],

  upstream_unresolved: [
    'The upstream has no address.',
    'Check its endpoints, and DNS; at a gateway, whether `backends` names an upstream for the Service.',
  ],
  upstream_unhealthy: ['No endpoint of the upstream is healthy.', 'GET /upstreams on the admin port says why.'],
  upstream_connect: ['The connection to the upstream failed.', 'Check that it runs, and its address.'],
  upstream_connect_timeout: [
    'The connection took longer than limits.connect, or than tcp.connectTimeout of the policy.',
    'Check its address, and firewalls.',
  ],
  upstream_tls: ['The TLS handshake with the upstream failed, or we have no bundle for it.', log],
  upstream_identity: [
    "The upstream's identity is not the expected one, or its certificate is refused.",
    "Check the upstream's address and certificate, and `identity` of the upstream.",
  ],
  upstream_refused_us: [
    'The upstream closed the connection after the handshake.',
    'It does not accept our certificate: its log says why.',
  ],
  upstream_closed: ['The upstream closed the connection before it responded.', backend],
  upstream_refused_stream: ['The upstream refused the stream before it began.', 'It is overloaded, or stopping.'],
  upstream_reset: ['The upstream reset the stream before it responded.', backend],
  upstream_cut: ['The upstream ended in the middle of its response.', backend],
  upstream_protocol: ['The upstream speaks another protocol, or breaks it.', 'Check `protocol` of the upstream.'],
  upstream_answer_malformed: ["The upstream's response breaks the grammar of HTTP, gRPC or gRPC-Web.", backend],
  grpc_response_too_large: ['A message of the response is larger than maxResponseBodySize.', 'Raise the limit.'],
  upstream_head_too_large: [
    "The response's head is larger than limits.headBytes or has more fields than limits.headFields.",
    'Have the upstream send less, or raise the limit.',
  ],
  upstream_response_timeout: [
    "The response took longer than the route's timeout.",
    'Find out why, or raise the timeout.',
  ],
  upstream_per_try_timeout: [
    "A try took longer than the route's timeouts.backendRequest, or than the perRetry.timeout of the policy.",
    'Find out why, or raise the timeout.',
  ],
};

/** Every code with its row of the error table. */
export function errorEntries(): readonly Entry[] {
  return Object.entries(codes).map(([name, { status, grpc, flag, details }]) => {
    const [means, fix] = words[name as Code];
    return {
      name,
      description: means,
      facts: [
        ['fix', fix],
        ['HTTP', `${status}`],
        ['gRPC', `${grpc}`],
        ['flag', flag],
        ['details', details],
      ],
    };
  });
}
