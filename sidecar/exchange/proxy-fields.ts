// Fields that proxies set and apps believe: who the caller is, where the request came from, what it was before. A
// client that sets one itself speaks as a proxy. Names are compared as CGI, WSGI and their like fold them
// (`FieldName.folded`).

/** Whole families, so that a member missing here counts, too. */
const families: readonly string[] = [
  // The origin of a request.
  ...['x-forwarded-', 'x-original-', 'x-real-', 'x-client-ip', 'x-cluster-client-', 'x-proxyuser-', 'wl-proxy-'],
  ...['cf-', 'x-azure-', 'x-appengine-', 'fastly-client-', 'true-client-', 'x-arr-', 'incap-client-', 'proxy-'],
  ...['cloudfront-', 'x-nf-client-', 'x-forward-', 'x-host', 'x-http-host-', 'x-script-name'],
  // The user, from proxies with logins.
  ...['x-auth-request-', 'x-webauth-', 'x-authenticated-', 'x-remote-', 'remote-', 'x-authentik-', 'x-authelia-'],
  ...['x-pomerium-', 'x-vouch-', 'x-consumer-', 'x-credential-', 'x-amzn-oidc-', 'x-goog-authenticated-user-'],
  ...[
    'oidc-',
    ...['sm-', 'iv-', 'oam-', 'shib-', 'mellon-', 'tailscale-', 'impersonate-', 'x-rh-identity'],
    ...['x-auth-user', 'x-auth-group', 'x-auth-email', 'x-auth-name', 'x-auth-role', 'x-auth-sub'],
    ...['kubeflow-user', 'x-proxy-user', 'x-apigateway-', 'x-scope-org', 'dapr-caller-'],
  ],
  ...[
    'x-user-dn',
    'x-cert-',
    'x-goog-iap-',
    'x-ms-client-principal',
    'x-ms-token-',
    'x-endpoint-api-',
    'l5d-',
    'x-istio-',
    'x-sallyport-',
  ],
  // Who it is, by proxies that end TLS (RFC 9440 section 2.4: they remove what was not theirs).
  ...['x-ssl-', 'ssl-', 'x-client-cert', 'client-cert', 'x-tls-client-', 'x-amzn-mtls-', 'x-envoy-'],
];

const single: ReadonlySet<string> = new Set([
  ...['forwarded', 'x-forwarded', 'x-rewrite-url', 'txn-token', 'x-userinfo', 'x-anonymous-consumer'],
  ...['front-end-https', 'x-scheme', 'x-url-scheme', 'x-client-verify', 'x-client-dn', 'x-spiffe-id'],
  // CGI makes HTTP_PROXY of it, which clients of many languages obey (httpoxy, CVE-2016-5385).
  'proxy',
]);

/** Facts of a client's connection, from any proxy or CDN: `X-True-Client-IP`, `Fly-Client-IP`, `X-Client-S-DN`. */
const clientFact =
  /(?:^|-)client-?(?:ip|addr|address|host|port|cert|certificate|s-dn|i-dn|dn|subject|issuer|verif)|(?:^|-)(?:originating|connecting|forwarded-for|real)-?ip\b|-forwarded-for$/;

/** True if only proxies may set a field. `folded` as `FieldName.folded`. */
export function isProxyField(folded: string): boolean {
  return single.has(folded) || clientFact.test(folded) || families.some((prefix) => folded.startsWith(prefix));
}

/** True if clients may set a field all the same. `names` in lower case; a star at the end matches any rest. */
export function compileClientFields(names: readonly string[]): (name: { readonly folded: string }) => boolean {
  if (names.length === 0) return () => false;
  const exact = new Set(names.filter((one) => !one.endsWith('*')));
  const starts = names.filter((one) => one.endsWith('*')).map((one) => one.slice(0, -1));
  return ({ folded }) => exact.has(folded) || starts.some((start) => folded.startsWith(start));
}
