// Changes the path or host for the backend, or redirects the client to another URL.

import { answerOwn } from '../../exchange/answer.ts';
import { changeRequest } from '../../exchange/fields.ts';
import type { Field, Hooks, Planned, Service } from '../capability.ts';
import { applyRewrite, compileRedirect, compileRewrite, locationOf } from './rewrite.ts';
import type { RedirectPlan, RewritePlan } from './schema.ts';

type Plan = RewritePlan | RedirectPlan;

const fieldFor = (name: string, key: 'urlRewrite' | 'requestRedirect'): Field => ({
  kind: 'filter',
  name,
  schema: async () => (await import('./schema.ts'))[key],
  filter: { key, grpc: false, repeatable: false },
});

export const rewrite: Service<Plan, undefined> = {
  name: 'rewrite',
  guards: false,
  fields: [fieldFor('RequestRedirect', 'requestRedirect'), fieldFor('URLRewrite', 'urlRewrite')],
  compile(plans, { prefix }) {
    const redirect = lastOf<RedirectPlan>(plans, 'RequestRedirect');
    if (redirect !== undefined) return redirecting(redirect, prefix);
    // A backend's own rewrite comes after the rule's, and replaces it.
    const plan = lastOf<RewritePlan>(plans, 'URLRewrite');
    return plan === undefined ? undefined : rewriting(plan, prefix);
  },
};

function lastOf<P extends Plan>(plans: readonly Planned<Plan>[], name: string): P | undefined {
  return plans.findLast(({ field }) => field === name)?.plan as P | undefined;
}

function redirecting(plan: RedirectPlan, prefix: string): Hooks {
  const redirect = compileRedirect(plan, prefix);
  return {
    answers: true,
    serve(exchange) {
      const location = locationOf(exchange, redirect, exchange.rules.policyPort);
      answerOwn(exchange, redirect.status, [['location', location]]);
    },
  };
}

function rewriting(plan: RewritePlan, prefix: string): Hooks {
  const change = compileRewrite(plan, prefix);
  return {
    rewrite(exchange) {
      // Envoy's name for the original path, which logs and apps may want.
      if (change.path !== undefined) changeRequest(exchange, none, [['x-envoy-original-path', exchange.path]]);
      applyRewrite(exchange, change);
    },
  };
}

const none: ReadonlySet<string> = new Set();
