// Counts the messages that were evaluated.

import { Counter, type Registry } from '../../../cert-agent/base/prometheus.ts';

/** Counts one message. `method` is one of the protocol, or `other`. */
export type CountMessage = (policy: string, method: string, outcome: 'allowed' | 'denied') => void;

/** Registers the counter. */
export function registerMcpMetrics(registry: Registry): CountMessage {
  const messages = new Counter({
    name: 'sallyport_mcp_messages_total',
    help: 'Messages of MCP clients, by policy, method and outcome.',
    labelNames: ['policy', 'method', 'outcome'],
    registers: [registry],
  });
  return (policy, method, outcome) => messages.inc({ policy, method, outcome });
}
