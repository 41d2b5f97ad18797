// What a CORS preflight is. Fetch standard, section 3.3.2: OPTIONS, with its two fields.

/** The method that a preflight is for; undefined if the request is none. An empty field counts as absent, as in Envoy. */
export function preflightMethod(
  method: string,
  header: (name: 'origin' | 'access-control-request-method') => string | undefined,
): string | undefined {
  if (method !== 'OPTIONS' || !header('origin')) return undefined;
  return header('access-control-request-method') || undefined;
}
