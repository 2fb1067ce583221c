import { useState } from 'preact/hooks';

import { useApp, useAppState } from '../context.js';
import { exportAll } from '../files.js';
import { formatNumber, t } from '../i18n.js';
import { IconButton } from './icons.jsx';

/** What a person should know before reading on: loading, disconnected, a demo model, chats that cannot be saved. */
export function Banners() {
  return (
    <section class="banners" aria-label={t('status.label')}>
      <Loading />
      <Disconnected />
      <Unsaved />
      <Moved />
      <Demo />
    </section>
  );
}

function Loading() {
  const loading = useAppState((state) => state.machine.phase === 'loading');
  const loaded = useAppState((state) => state.machine.loaded);
  if (!loading || loaded === null) return null;
  const percent = Math.floor(loaded * 100);
  return (
    <div class="banner calm">
      <span id="loading-text">{t('status.loadingPercent', { percent: formatNumber(percent) })}</span>
      <progress max={100} value={percent} aria-labelledby="loading-text" />
    </div>
  );
}

function Disconnected() {
  const lost = useAppState((state) => state.machine.phase === 'disconnected');
  if (!lost) return null;
  return (
    <div class="banner warning" role="alert">
      <span>{t('status.disconnected')}</span>
    </div>
  );
}

function Unsaved() {
  const app = useApp();
  const unsaved = useAppState((state) => state.unsaved);
  if (!unsaved) return null;
  return (
    <div class="banner warning" role="alert">
      <span>{t(app.store.isNewer ? 'status.newer' : 'status.unsaved')}</span>
      <button type="button" class="small" onClick={() => void exportAll(app)}>
        {t('status.exportNow')}
      </button>
    </div>
  );
}

/** Another port is another place for the browser: what was written under the usual one is not here. */
function Moved() {
  const app = useApp();
  const port = useAppState((state) => (state.started && state.props?.movedFrom !== state.movedHidden ? state.props?.movedFrom : null));
  if (!port) return null;
  return (
    <div class="banner calm">
      <span>{t('status.moved', { port: String(port) })}</span>
      <IconButton icon="close" label={t('status.dismissMoved')} onClick={() => app.hideMoved()} />
    </div>
  );
}

/** Hiding lasts as long as this tab: a demo model must not be mistaken for the real one later. */
function Demo() {
  const demo = useAppState((state) => state.props?.demo === true);
  const [hidden, setHidden] = useState(false);
  if (!demo || hidden) return null;
  return (
    <div class="banner demo">
      <span>
        {t('status.demo')} <code>gemma2 -m gemma-2-2b-it-Q6_K.gguf</code>
        {t('status.demoOr')}
      </span>
      <IconButton icon="close" label={t('status.dismiss')} onClick={() => setHidden(true)} />
    </div>
  );
}
