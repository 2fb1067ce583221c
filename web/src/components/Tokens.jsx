import { useState } from 'preact/hooks';

import { useApp, useAppState } from '../context.js';
import { formatNumber, t } from '../i18n.js';
import { canSend } from '../state.js';

/** How unlikely, in five steps: a shade, and a line that grows. */
const STEPS = [0.9, 0.6, 0.3, 0.1];

/** @param {number} share */
function percent(share) {
  const written = formatNumber(Math.max(share, 0.001), { style: 'percent', maximumFractionDigits: share < 0.1 ? 1 : 0 });
  return share < 0.001 ? `< ${written}` : written;
}

/** @param {string} text what cannot be seen gets a name */
const visible = (text) => text.replaceAll('\n', '⏎').replaceAll('\t', '⇥').replace(/^ | $/g, '␣');

/**
 * A reply as its tokens, each with the likeliest others; choosing one branches there.
 * @param {{ message: import('../tree.js').Message, probs: import('../tree.js').Probabilities }} props
 */
export function Tokens({ message, probs }) {
  const app = useApp();
  const ready = useAppState((state) => canSend(state.machine));
  const [open, setOpen] = useState(-1);
  const token = probs.list[open];
  return (
    <>
      <div class="text tokens" dir="auto">
        {message.content.slice(0, probs.from)}
        {probs.list.map(([text, share], at) => (
          <button
            key={at}
            type="button"
            class={`token p${STEPS.filter((step) => share < step).length}`}
            title={percent(share)}
            aria-expanded={open === at}
            onClick={() => setOpen(open === at ? -1 : at)}
          >
            {text}
          </button>
        ))}
      </div>
      {token && (
        <div class="likely" role="group" aria-label={t('tokens.instead', { token: visible(token[0]) })}>
          <p class="help">{t('tokens.instead', { token: visible(token[0]) })}</p>
          <ul>
            {token[2].map((other) => (
              <li key={other[0]}>
                <button
                  type="button"
                  class="small"
                  // What is half a character, a marker, or taken already is no way to go on.
                  disabled={!ready || other[0] === token[0] || /\ufffd|^<\w+>$/.test(other[0]) || other[0] === ''}
                  onClick={() => void app.replies.branchAtToken(message.id, open, other)}
                >
                  <code>{visible(other[0])}</code> {percent(other[1])}
                </button>
              </li>
            ))}
          </ul>
        </div>
      )}
    </>
  );
}
