import { useState } from 'preact/hooks';

import { useApp, useAppState } from '../context.js';
import { t } from '../i18n.js';
import { canGrow } from '../meter.js';
import { canSend } from '../state.js';
import { Restart } from './Composer.jsx';
import { ChangeFormat } from './Format.jsx';

/** Why a reply ended early, and what to do. @param {{ message: import('../tree.js').Message, failure: import('../state.js').Failure }} props */
export function Failure({ message, failure }) {
  const app = useApp();
  const ready = useAppState((state) => canSend(state.machine));
  const known = failure.kind === 'network' && (failure.message === 'unreachable' || failure.message === 'broken');
  const text = known ? t(failure.message === 'broken' ? 'failure.broken' : 'failure.unreachable') : failure.message;
  return (
    <div class="failure" role="alert">
      <p>
        <strong>{t('failure.title')}</strong>
      </p>
      {failure.kind === 'key' ? (
        <Key onUse={() => void app.replies.retry(message.id)} />
      ) : (
        <>
          <p dir="auto">{text}</p>
          {failure.hint && <p dir="auto">{failure.hint}</p>}
          <div class="choices">
            <ChangeFormat failure={failure} />
            <button type="button" onClick={() => void app.replies.retry(message.id)} disabled={!ready}>
              {t('failure.retry')}
            </button>
          </div>
        </>
      )}
    </div>
  );
}

/** Asks for the server's key. @param {{ onUse: () => void }} props called when there is one */
export function Key({ onUse }) {
  const app = useApp();
  const [key, setKey] = useState('');
  return (
    <>
      <p>{t(app.api.key === '' ? 'failure.key' : 'failure.keyWrong')}</p>
      <p>{t('failure.keyHint')}</p>
      <form
        class="key"
        onSubmit={(event) => {
          event.preventDefault();
          void app.useKey(key);
          onUse();
        }}
      >
        <input
          type="password"
          autocomplete="off"
          aria-label={t('failure.keyField')}
          placeholder={t('failure.keyField')}
          value={key}
          onInput={(event) => setKey(event.currentTarget.value)}
        />
        <button type="submit" disabled={key === ''}>
          {t('failure.keySave')}
        </button>
      </form>
    </>
  );
}

/** The context is full: three ways on, and nothing is left out unasked. @param {{ message: import('../tree.js').Message }} props */
export function FullContext({ message }) {
  const app = useApp();
  const ready = useAppState((state) => canSend(state.machine));
  const meter = useAppState((state) => state.meter);
  const used = message.failure?.promptTokens;
  return (
    <div class="failure" role="alert">
      <p>
        <strong>{t('full.title')}</strong>{' '}
        {used !== undefined && t('full.prompt', { used, total: meter.total })}
      </p>
      <div class="choices">
        <button type="button" class="primary" onClick={() => void app.prompts.leaveOutOldest()} disabled={!ready}>
          {t('full.leaveOut')}
        </button>
        <button type="button" onClick={() => void app.prompts.newChatWithLastAnswer()}>
          {t('full.newChat')}
        </button>
      </div>
      {canGrow(meter) && <Restart />}
    </div>
  );
}
