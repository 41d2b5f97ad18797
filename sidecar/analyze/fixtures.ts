// Fixtures of `policy test`: requests with expected decisions, in YAML, beside the policies that they test.

import { dirname, resolve } from 'node:path';
import { z } from 'zod';
import type { Problem } from '../../cert-agent/base/errors.ts';
import { configError, parseYaml, readDocument } from '../../cert-agent/base/yaml.ts';
import { readText } from '../config/sources.ts';
import { rulesOf } from '../policy/decide.ts';
import type { Explanation } from '../policy/explain.ts';
import { matches } from '../policy/index-rules.ts';
import { Evaluator, explainAnswer, requestFields, scopeFields, type Verdict } from './question.ts';
import { readWorld, type ScopeFlags } from './world.ts';

const expectation = z.union([
  z.enum(['allow', 'deny']),
  z.number().int().min(100).max(599),
  z
    .strictObject({
      allowed: z.boolean(),
      status: z.number().int(),
      policy: z.string().nullable(),
      rule: z.number().int().nullable(),
      path: z.string().nullable(),
    })
    .partial(),
]);

const { policies: _, providers, ...scopeOf } = scopeFields;

const schema = z.strictObject({
  policies: z.union([z.string(), z.array(z.string())]).optional(),
  ...scopeOf,
  requests: z
    .array(
      z.strictObject({
        name: z.string().optional(),
        because: z.string().optional(),
        expect: expectation,
        ...requestFields,
        ...scopeOf,
        providers,
      }),
    )
    .min(1, 'no requests to test'),
});

/** The result of one request. */
export interface TestResult {
  readonly file: string;
  readonly line: number;
  readonly name: string;
  readonly passed: boolean;
  readonly verdict: Verdict;
  /** The expected and the actual decision, if they differ. */
  readonly difference: string | undefined;
  /** The explanation, if the decision is not the expected one. */
  readonly explanation: Explanation | undefined;
}

/** A rule in scope of a request, and whether it matched one. */
export interface RuleCoverage {
  readonly rule: string;
  readonly matched: number;
}

/** All results, in the order of the files, and every rule that was in scope of a request. */
export interface TestReport {
  readonly results: readonly TestResult[];
  readonly coverage: readonly RuleCoverage[];
  /** Files in the policies' directories that were not read. */
  readonly passedOver: readonly Problem[];
}

/** Runs fixture files. @throws SallyportError `config_invalid`, `config_unreadable`. */
export async function runFixtures(files: readonly string[], flags: ScopeFlags): Promise<TestReport> {
  const results: TestResult[] = [];
  const coverage = new Map<string, number>();
  const passedOver = new Map<string, Problem>();
  for (const file of files) {
    const { documents, problems } = parseYaml(readText(file), file);
    if (problems.length > 0) throw configError(problems);
    for (const document of documents) {
      const read = readDocument(schema, document);
      if ('problems' in read) throw configError(read.problems satisfies Problem[]);
      const { policies, requests, ...scope } = read.value;
      const paths = policies === undefined ? undefined : [policies].flat().map((one) => resolve(dirname(file), one));
      const world = await readWorld({ ...flags, ...(paths === undefined ? {} : { policies: paths }) });
      for (const one of world.passedOver) passedOver.set(one.file, one);
      const evaluator = new Evaluator(world);
      for (const [index, { name, because, expect, ...request }] of requests.entries()) {
        const given = Object.fromEntries(Object.entries(request).filter(([, value]) => value !== undefined));
        const answer = await evaluator.ask({ ...scope, ...given } as Parameters<Evaluator['ask']>[0]);
        const { verdict, facts, set } = answer;
        for (const action of ['CUSTOM', 'DENY', 'ALLOW', 'AUDIT'] as const)
          for (const rule of rulesOf(set, action)) {
            const key = `${action} ${rule.name.namespace}/${rule.name.name} rule ${rule.name.rule}`;
            const shape = facts?.protocol === 'tcp' ? rule.tcp : rule.http;
            const hit = facts !== undefined && shape !== null && matches(shape, facts, undefined);
            coverage.set(key, (coverage.get(key) ?? 0) + (hit ? 1 : 0));
          }
        const difference = differenceOf(expect, verdict);
        results.push({
          file,
          line: document.problemAt(['requests', index], '').line,
          name: name ?? nameOf(request, because),
          passed: difference === undefined,
          verdict,
          difference,
          explanation: difference === undefined ? undefined : explainAnswer(answer),
        });
      }
    }
  }
  return {
    results,
    coverage: [...coverage].map(([rule, matched]) => ({ rule, matched })),
    passedOver: [...passedOver.values()],
  };
}

function nameOf(
  {
    protocol,
    method,
    path,
    from,
  }: { protocol: string; method: string; path: string; from?: string | null | undefined },
  because: string | undefined,
): string {
  const what = protocol === 'tcp' ? 'a TCP connection' : `${method} ${path}`;
  return `${what} from ${from ?? 'a peer without identity'}${because === undefined ? '' : `: ${because}`}`;
}

function differenceOf(expect: z.output<typeof expectation>, verdict: Verdict): string | undefined {
  const actual = `${verdict.allowed ? 'allowed' : `denied (${verdict.status})`} by ${verdict.policy === null ? (verdict.reason ?? 'no rule') : `${verdict.policy} rule ${verdict.rule}`}`;
  if (expect === 'allow' || expect === 'deny')
    return verdict.allowed === (expect === 'allow') ? undefined : `expected ${expect}, but it was ${actual}`;
  if (typeof expect === 'number')
    return verdict.status === expect ? undefined : `expected status ${expect}, but it was ${actual}`;
  const wrong = Object.entries(expect).filter(([key, value]) => verdict[key as keyof Verdict] !== value);
  if (wrong.length === 0) return undefined;
  return `expected ${wrong.map(([key, value]) => `${key} ${JSON.stringify(value)}`).join(', ')}, but it was ${actual}`;
}
