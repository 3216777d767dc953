import type { Endpoint } from "comlink";

/** What a worker and its `parentPort` have in common. */
export interface MessagePortLike {
  postMessage(message: unknown, transfer?: readonly unknown[]): void;
  on(event: "message", listener: (data: unknown) => void): unknown;
  off(event: "message", listener: (data: unknown) => void): unknown;
}

/** Lets comlink talk over a `node:worker_threads` port (its own adapter comes without usable types). */
export function endpointOf(port: MessagePortLike): Endpoint {
  const listeners = new Map<unknown, (data: unknown) => void>();
  return {
    postMessage: (message, transfer) => port.postMessage(message, transfer),
    addEventListener(_, listener) {
      const call = (data: unknown) => {
        const event = { data } as MessageEvent;
        if ("handleEvent" in listener) listener.handleEvent(event);
        else listener(event);
      };
      listeners.set(listener, call);
      port.on("message", call);
    },
    removeEventListener(_, listener) {
      const call = listeners.get(listener);
      if (call) port.off("message", call);
      listeners.delete(listener);
    },
  };
}
