voice-call = Dzwoni { $name }
video-call = Połączenie wideo: { $name }
message =
    { $count ->
        [one] Wiadomość od: { $name }
        [few] { $count } wiadomości od: { $name }
        [many] { $count } wiadomości od: { $name }
       *[other] { $count } wiadomości od: { $name }
    }
missed-call =
    { $count ->
        [one] Nieodebrane połączenie: { $name }
        [few] { $count } nieodebrane połączenia: { $name }
        [many] { $count } nieodebranych połączeń: { $name }
       *[other] { $count } nieodebranego połączenia: { $name }
    }
contact-request = { $name } chce dodać cię do kontaktów
voicemail =
    { $count ->
        [one] Wiadomość głosowa od: { $name }
        [few] { $count } wiadomości głosowe od: { $name }
        [many] { $count } wiadomości głosowych od: { $name }
       *[other] { $count } wiadomości głosowej od: { $name }
    }
file =
    { $count ->
        [one] { $name } wysyła ci plik
        [few] { $name } wysyła ci { $count } pliki
        [many] { $name } wysyła ci { $count } plików
       *[other] { $name } wysyła ci { $count } pliku
    }
mail = E-mail od: { $name }
self-test = Dotarło powiadomienie testowe
notice = Coś nowego od: { $name }
shown-on = { $event } (widoczne na urządzeniu { $device })
accept = Odbierz
decline = Odrzuć
