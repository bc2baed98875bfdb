// The message protocol: one message in flight until Python echoes its number, the rest waits in order; nothing is
// dropped. Neighbouring edits that wait are joined, each gesture staying one entry of `steps`.

const RESEND_MS = 5000;

function createOutbox(send, now = () => performance.now()) {
  const box = { seq: 0, inFlight: null, sentAt: 0, waiting: [] };

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
    if (box.inFlight && ack >= box.inFlight.seq) box.inFlight = null;
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
  // Ids whose newest value Python may not know yet.
  box.unheard = () => new Set(messages().flatMap((message) => (message.steps || []).flatMap(Object.keys)));
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
    box.waiting = [];
    box.inFlight = null;
  };
  box.resendLate = () => {
    if (!box.inFlight || now() - box.sentAt < RESEND_MS) return;
    box.sentAt = now();
    send(box.inFlight);
  };
  return box;
}
