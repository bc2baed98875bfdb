// The message protocol: one message in flight until Python echoes its number, the rest waits in order; nothing is
// dropped. Neighbouring edits that wait are joined, each gesture staying one entry of `steps`.

const RESEND_MS = 5000;
const DRAWN_MS = 5000; // the longest that a drawing may be under way while a newer edit is answered

function createOutbox(send, now = () => performance.now()) {
  const box = { seq: 0, inFlight: null, sentAt: 0, waiting: [], answered: [] };

  function pump() {
    if (box.inFlight || !box.waiting.length) return;
    box.inFlight = box.waiting.shift();
    box.inFlight.seq = box.seq += 1;
    box.inFlight.sent = Date.now(); // Streamlit calls back only for what differs from the last message
    box.sentAt = now();
    send(box.inFlight);
  }

  box.start = (seq) => {
    box.seq = Math.max(box.seq, seq);
  };
  box.acknowledge = (ack) => {
    if (box.inFlight && ack >= box.inFlight.seq) {
      box.answered = [...fresh(), { ...box.inFlight, at: now() }];
      box.inFlight = null;
    }
    pump();
  };
  // edit: {rev, values, locked}; step: {id: kept} that one gesture changed, or null when only a lock did.
  box.commit = (edit, step) => {
    const steps = step ? [step] : [];
    const last = box.waiting[box.waiting.length - 1];
    if (last && last.kind === "edit") Object.assign(last, edit, { steps: [...last.steps, ...steps] });
    else box.waiting.push({ kind: "edit", phase: "commit", ...edit, steps });
    pump();
  };
  // A preview is worth nothing once something else is under way.
  box.preview = (edit) => {
    if (box.inFlight || box.waiting.length) return;
    box.waiting.push({ kind: "edit", phase: "drag", ...edit, steps: [] });
    pump();
  };
  box.command = (name) => {
    box.waiting.push({ kind: "command", name });
    pump();
  };
  const messages = () => (box.inFlight ? [box.inFlight, ...box.waiting] : box.waiting);
  const fresh = () => box.answered.filter(({ at }) => now() - at < DRAWN_MS);
  // What Python did not know yet when it had handled message number `ack`: an edit may be answered, by the headline,
  // before a drawing arrives that was begun without it.
  const unheard = (ack) => [...fresh().filter(({ seq }) => seq > ack), ...messages()].filter(({ kind }) => kind === "edit");
  box.unheardIds = (ack) => new Set(unheard(ack).flatMap(({ steps }) => steps.flatMap(Object.keys)));
  box.knewLocks = (ack) => !unheard(ack).length;
  box.holdsEdits = () => messages().some((message) => message.kind === "edit");
  // Python changed the values while messages wait: what waits now means "those values, and my steps".
  box.rebase = (rev, values) => {
    const current = { ...values };
    for (const message of messages()) {
      if (message.kind !== "edit") continue;
      Object.assign(current, ...message.steps);
      if (message !== box.inFlight) Object.assign(message, { rev, values: { ...current } });
    }
  };
  box.clear = () => {
    box.waiting = box.answered = [];
    box.inFlight = null;
  };
  box.resendLate = () => {
    if (!box.inFlight || now() - box.sentAt < RESEND_MS) return;
    box.sentAt = now();
    send(box.inFlight);
  };
  return box;
}
