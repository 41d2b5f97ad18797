// Guesses a path's template from the path alone: what looks like an id, a date or a token becomes a variable, the rest
// stays literal. The result can be written into a policy unchanged.

const variable = [
  /^\d+$/,
  // UUIDs, and other hexadecimal ids that contain a digit.
  /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i,
  /^(?=.*\d)[0-9a-f]{8,}$/i,
  /^\d{4}-\d{2}(?:-\d{2})?(?:T[\d:.Z+-]+)?$/,
  // Long words with digits in them are tokens; `ulid`, `ksuid`, base64.
  /^(?=.*\d)[A-Za-z0-9_-]{20,}$/,
  /^[^@]+@[^@]+$/,
  // `order-1234`, `inv_20`: a word and a number.
  /^[A-Za-z]+[-_]\d+$/,
];

/** A segment that a template may hold literally. */
const literal = /^[A-Za-z0-9\-._~%!$&'()+,;:@=]+$/;
const maxLength = 512;

/** The template of a normalised path without query; the path itself where nothing in it varies. */
export function inferTemplate(path: string): string {
  if (path.length > maxLength) return '/{**}';
  const segments = path.split('/').slice(1);
  // Paths that no template can express: empty segments, or no leading slash.
  if (!path.startsWith('/') || segments.slice(0, -1).includes('')) return '/{**}';
  return `/${segments.map((one) => (one === '' || !isVariable(one) ? one : '{*}')).join('/')}`;
}

function isVariable(segment: string): boolean {
  return !literal.test(segment) || variable.some((pattern) => pattern.test(segment));
}

/** The template with its last segment as a variable, for many siblings. */
export function generalize(template: string): string {
  return template.replace(/\/[^/]*$/, '/{*}');
}
