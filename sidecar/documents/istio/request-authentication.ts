// The schema of RequestAuthentication.

import { z } from 'zod';
import type { Problem } from '../../../cert-agent/base/errors.ts';
import { deepFreeze } from '../../../cert-agent/base/live.ts';
import { durationSchema, readDocument, type YamlDocument } from '../../../cert-agent/base/yaml.ts';
import { isSafeField } from '../../exchange/message.ts';
import type { RequestAuthentication } from '../../policy/request-authentication.ts';
import { apiVersion, attachment, enforcedMetadata, type Purpose, refuseTwoTargets, targetFields } from './patterns.ts';

const filled = (what: string): z.ZodString => z.string().min(1, `${what} must not be empty`);

// RFC 9110 section 5.6.2.
const headerName = filled('a header name').regex(/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/, 'not a valid header name');

// Istio's own pattern, narrower than the standard's.
const claimHeader = filled('a header name').regex(
  /^[-_A-Za-z0-9]+$/,
  'a header for a claim consists of letters, digits, - and _',
);

// http:// is accepted as in Istio, and `policy lint` reports it.
const jwksUri = filled('jwksUri').superRefine((value, context) => {
  const url = URL.parse(value);
  if (url !== null && (url.protocol === 'http:' || url.protocol === 'https:') && value.length <= 2048) return;
  context.addIssue({ code: 'custom', message: `'${value}' is not an http:// or https:// URL` });
});

const jwks = z.string().superRefine((value, context) => {
  try {
    const parsed: unknown = JSON.parse(value);
    const keys = typeof parsed === 'object' && parsed !== null && 'keys' in parsed ? parsed.keys : undefined;
    if (Array.isArray(keys) && keys.every((key) => typeof key === 'object' && key !== null && 'kty' in key)) return;
    context.addIssue({ code: 'custom', message: "a JWK Set is an object with a list 'keys', each with 'kty'" });
  } catch {
    context.addIssue({ code: 'custom', message: 'not valid JSON' });
  }
});

const jwtRule = z
  .strictObject({
    /** Empty: tokens of any issuer that the keys verify, which istiod accepts beside `jwksUri`. */
    issuer: z
      .string()
      .default('')
      .describe('The issuer of the tokens. Empty: any issuer whose token the keys of `jwksUri` verify.'),
    audiences: z
      .array(filled('an audience'))
      .default([])
      .describe('A token must be for one of these. Empty: for anyone.'),
    jwksUri: jwksUri
      .optional()
      .describe("The URL of the keys, a JWK Set. Without it and `jwks`, the issuer's discovery document names it."),
    jwks: jwks.optional().describe('The keys themselves, a JWK Set in JSON.'),
    fromHeaders: z
      .array(
        z.strictObject({
          name: headerName.describe('The name of the header.'),
          prefix: z
            .string()
            .default('')
            .describe('The text before the token, which is cut off. Without it the value does not match.'),
        }),
      )
      .default([])
      .describe('Headers that hold the token. Without any place: `Authorization` and the parameter `access_token`.'),
    fromParams: z.array(filled('a parameter')).default([]).describe('Query parameters that hold the token.'),
    fromCookies: z.array(filled('a cookie')).default([]).describe('Cookies that hold the token.'),
    // The payload as in the token: base64url, not decoded.
    outputPayloadToHeader: headerName
      .optional()
      .describe('A header for the app with the verified payload, in base64url.'),
    outputClaimToHeaders: z
      .array(
        z.strictObject({
          header: claimHeader.describe('The name of the header. What the client sent under it is removed.'),
          claim: filled('a claim').describe('The name of the claim; dots lead into objects.'),
        }),
      )
      .default([])
      .describe('Headers for the app with one claim each.'),
    // The defaults of this field and the next are Istio's.
    forwardOriginalToken: z.boolean().default(false).describe('Leaves the token in the request to the app.'),
    timeout: durationSchema.prefault('5s').describe('How long fetching the keys may take.'),
    // Beside `scope` and `permission`, which are always split. Since 1.21 Istio splits no other claim by itself.
    spaceDelimitedClaims: z
      .array(filled('a claim'))
      .max(64, 'at most 64 claims')
      .default([])
      .describe('Claims that are lists of words with spaces between them, beside `scope` and `permission`.'),
  })
  .superRefine((rule, context) => {
    if (rule.jwks !== undefined && rule.jwksUri !== undefined)
      context.addIssue({ code: 'custom', path: ['jwksUri'], message: "only one of 'jwks' and 'jwksUri' can be set" });
    // Istio's rule.
    if (rule.issuer === '' && rule.jwksUri === undefined)
      context.addIssue({
        code: 'custom',
        path: ['issuer'],
        message: "issuer is not empty, unless 'jwksUri' says whose keys verify",
      });
    if (rule.timeout < 1)
      context.addIssue({ code: 'custom', path: ['timeout'], message: 'a timeout must be at least 1 ms' });
  });

/** The schema of the document. */
export const requestAuthentication = z.strictObject({
  apiVersion,
  kind: z.literal('RequestAuthentication').describe('The kind of the document.'),
  metadata: enforcedMetadata,
  spec: z
    .strictObject({
      ...targetFields,
      jwtRules: z
        .array(jwtRule)
        .max(4096)
        .default([])
        .describe('The accepted issuers. A token that is present must be valid by one of them.'),
    })
    .superRefine(refuseTwoTargets)
    .prefault({})
    .describe('Which tokens a workload accepts. A request without any token passes.'),
  status: z.unknown().optional().describe('The state that a cluster reports. It is not read.'),
});

/** A claim cannot be sent to the app in a hop-by-hop header or one of ours. */
function refuseReserved(document: YamlDocument, rules: readonly z.output<typeof jwtRule>[]): Problem[] {
  return rules.flatMap(({ outputPayloadToHeader: payload, outputClaimToHeaders: claims }, r) => {
    const named: [string, (string | number)[]][] = [
      ...(payload === undefined ? [] : [[payload, ['outputPayloadToHeader']] as [string, string[]]]),
      ...claims.map(({ header }, i): [string, (string | number)[]] => [header, ['outputClaimToHeaders', i, 'header']]),
    ];
    return named.flatMap(([header, path]) =>
      isSafeField(header, '')
        ? []
        : [
            document.problemAt(
              ['spec', 'jwtRules', r, ...path],
              `'${header}' cannot carry a claim: it belongs to one hop`,
            ),
          ],
    );
  });
}

/** The document's value, frozen, or all problems. */
export function readRequestAuthentication(
  document: YamlDocument,
  file: string,
  purpose: Purpose,
): { value: RequestAuthentication } | { problems: Problem[] } {
  const read = readDocument(requestAuthentication, document);
  if ('problems' in read) return read;
  const { metadata: meta, spec: parsed } = read.value;
  const attached = attachment(parsed);
  if (purpose === 'run' && attached.targetRefs !== undefined) {
    const key = parsed.targetRef === undefined ? 'targetRefs' : 'targetRef';
    const message = `'${key}' is for gateways and waypoints: a sidecar would not verify these tokens`;
    return {
      problems: [
        document.problemAt(['spec'], message, {
          key,
          hint: "attach it by 'selector', or keep it out of this directory",
        }),
      ],
    };
  }
  const problems = purpose === 'run' ? refuseReserved(document, parsed.jwtRules) : [];
  if (problems.length > 0) return { problems };
  const value: RequestAuthentication = {
    name: meta.name,
    namespace: meta.namespace,
    ...attached,
    jwtRules: parsed.jwtRules.map(({ timeout, ...rest }) => ({ ...rest, timeoutMs: timeout })),
    file,
    line: document.problemAt(['metadata', 'name'], '').line,
  };
  return { value: deepFreeze(value) };
}
