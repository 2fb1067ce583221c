import { useAppState, useLanguage, useUiState } from '../context.js';
import { t } from '../i18n.js';
import { Banners } from './Banners.jsx';
import { Composer } from './Composer.jsx';
import { Dialogs } from './Dialogs.jsx';
import { Header } from './Header.jsx';
import { ChatList } from './ChatList.jsx';
import { RawText } from './RawText.jsx';
import { Thread } from './Thread.jsx';
import { Live, Toasts } from './Toasts.jsx';

/** The whole page. The build renders it once into `index.html`, so that the first paint needs no script. */
export function Page() {
  useLanguage();
  const list = useUiState((ui) => ui.list);
  const drawer = useUiState((ui) => ui.drawer);
  // Nothing behind a dialog or the drawer can be clicked: what is open shows the notes itself.
  const covered = useUiState((ui) => ui.dialog !== null || ui.drawer);
  const raw = useAppState((state) => state.conversation.text !== undefined);
  const id = useAppState((state) => state.conversation.id);
  return (
    <div class={`page ${list ? '' : 'no-list'} ${drawer ? 'drawer-open' : ''}`}>
      <a class="skip" href="#message" inert={drawer}>
        {t('app.skip')}
      </a>
      <ChatList />
      <div class="column" inert={drawer}>
        <Header />
        <Banners />
        {raw ? <RawText key={id} /> : <Thread />}
        <div class="toast-place">{!covered && <Toasts />}</div>
        {!raw && <Composer />}
      </div>
      <Live />
      <Dialogs />
    </div>
  );
}
